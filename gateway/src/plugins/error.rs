//! Why a request to change plugins is refused, in the shape in which the admin API says it.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeMap};

/// A refusal: `{"error":{"code":"module-import-unknown","message":"…","field":"…"}}`.
///
/// Nothing has changed when one is returned, unless the message says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ApiError {
    /// HTTP status: 400 malformed, 403 foreign caller, 404, 405, 409 conflict, 413 too large,
    /// 422 module or configuration refused, 500 or 507 storage, 503 try again.
    pub status: u16,
    /// Stable name for programs, kebab-case.
    pub code: &'static str,
    /// What is wrong and what would be right, for people.
    pub message: String,
    /// The setting or part it is about, if there is one.
    pub field: Option<String>,
}

impl ApiError {
    /// A refusal that is not about one field.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), field: None }
    }

    /// 404: nobody declares a plugin of this name.
    #[must_use]
    pub fn plugin_unknown(name: &str) -> Self {
        Self::new(404, "plugin-unknown", format!("there is no plugin {name:?}; GET /plugins lists them"))
    }

    /// 413: a module may have `limit` bytes.
    #[must_use]
    pub(super) fn module_too_large(limit: usize) -> Self {
        Self::new(413, "module-too-large", format!("a module may have {limit} bytes")).at("module")
    }

    /// The same, about `field`.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {} ({})", self.message, self.code),
            None => write!(f, "{} ({})", self.message, self.code),
        }
    }
}

impl Serialize for ApiError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Inner<'a> {
            code: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            field: Option<&'a str>,
        }
        let mut outer = serializer.serialize_map(Some(1))?;
        let inner = Inner { code: self.code, message: &self.message, field: self.field.as_deref() };
        outer.serialize_entry("error", &inner)?;
        outer.end()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn one_shape_with_and_without_a_field() {
        let plain = ApiError::new(404, "plugin-unknown", "no such plugin");
        assert_eq!(
            serde_json::to_string(&plain).unwrap(),
            r#"{"error":{"code":"plugin-unknown","message":"no such plugin"}}"#
        );
        let field = ApiError::new(400, "settings-invalid", "not a number").at("priority");
        assert_eq!(
            serde_json::to_string(&field).unwrap(),
            r#"{"error":{"code":"settings-invalid","message":"not a number","field":"priority"}}"#
        );
    }
}
