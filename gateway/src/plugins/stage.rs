//! Changes of uploads up to the point where they can take effect: contract of everything below `/plugins/{name}` that
//! changes something.

use std::{io, time::SystemTime};

use bytes::Bytes;

use super::{
    ApiError, Change, Digest, Outcome, UploadRequest,
    loader::{LoadError, Loaded, Source},
    prepare,
    registry::Registry,
    resolve::Candidate,
    settings::{self, Settings, host_variable},
    store::Prepared,
    time::rfc3339,
    upload::{self, Upload, Uploads, Wanted},
    view::State,
};
use crate::snapshot::Plugin;

/// A change that was found good and is on disk, but not in effect.
///
/// End it with [`Registry::commit`] or [`Registry::discard`].
pub struct Staged {
    pub(super) name: String,
    outcome: Outcome,
    /// `None`: there is nothing to change.
    pub(super) prepared: Option<Prepared>,
    namespace: String,
}

impl Staged {
    /// What this will have been once it is committed. [`Outcome::Unchanged`] needs no resolving and no commit.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether `plugin` is the upload that changes: if it cannot be started, the change is refused.
    #[must_use]
    pub fn concerns(&self, plugin: &Plugin) -> bool {
        plugin.name == self.name && plugin.namespace == self.namespace
    }

    /// The uploads as they will be.
    pub(super) fn uploads(&self) -> Option<&Uploads> {
        self.prepared.as_ref().map(Prepared::uploads)
    }
}

impl Registry {
    /// Checks a change and prepares it on disk. Compiles a new module and starts one instance of a new version,
    /// so it takes up to [`Limits::compile`](super::Limits::compile) and the plugin's limits of starting.
    ///
    /// # Errors
    /// As contracted for the admin API: 400, 404, 409, 413, 422, 500, 503, 507. Nothing has changed then.
    pub async fn stage(&mut self, change: Change) -> Result<Staged, ApiError> {
        let staged = match change {
            Change::Put(request) => self.stage_put(request).await,
            Change::Delete { name } => self.stage_delete(name).await,
            Change::Rollback { name, to } => self.stage_rollback(name, to.as_deref()).await,
            Change::Enable { name, enabled } => self.stage_enable(name, enabled).await,
        };
        if staged.is_err() {
            self.forget_unused();
        }
        staged
    }

    async fn stage_put(&mut self, request: UploadRequest) -> Result<Staged, ApiError> {
        let UploadRequest { name, module, settings: mut patch } = request;
        check_name(&name)?;
        self.check_not_a_resource(&name)?;
        let before = self.store.uploads().get(&name);

        let expected = match patch.shift_remove("sha256") {
            None | Some(serde_json::Value::Null) => None,
            Some(text) => Some(
                text.as_str()
                    .unwrap_or_default()
                    .parse::<Digest>()
                    .map_err(|why| ApiError::new(400, "settings-invalid", why).at("sha256"))?,
            ),
        };
        let mut spec = before.map(|upload| upload.current.settings.clone()).unwrap_or_default();
        settings::apply(&mut spec, &patch);
        Settings::parse(&spec, host_variable)?;
        let limit = self.limits.settings_bytes;
        if serde_json::to_vec(&spec).map_or(0, |text| text.len()) > limit {
            return Err(ApiError::new(413, "settings-too-large", format!("settings may have {limit} bytes as JSON")));
        }

        let limit = self.limits.module_bytes;
        let module = match module {
            Some(bytes) if bytes.len() > limit => {
                return Err(ApiError::module_too_large(limit));
            }
            Some(bytes) => {
                let hashed = bytes.clone();
                let digest = tokio::task::spawn_blocking(move || Digest::of(&hashed)).await;
                let digest = digest.map_err(|error| ApiError::new(500, "internal", error.to_string()))?;
                Some((digest, bytes))
            }
            None => None,
        };
        let (digest, size) = match (&module, before) {
            (Some((digest, bytes)), _) => (*digest, bytes.len() as u64),
            (None, Some(upload)) => (upload.current.digest, upload.current.bytes),
            (None, None) => {
                let message = format!("there is no upload {name} whose settings could change; send a module with them");
                return Err(ApiError::new(400, "module-missing", message).at("module"));
            }
        };
        if expected.is_some_and(|expected| expected != digest) {
            let message = format!("the module's digest is {digest}; send the right file or the right sha256");
            return Err(ApiError::new(422, "module-digest", message).at("sha256"));
        }

        let now = rfc3339(SystemTime::now());
        let (outcome, upload) = match before {
            None => (Outcome::Created, Upload::new(digest, size, spec, now)),
            Some(upload) if upload.current.digest == digest && upload.current.settings == spec => {
                // One that failed may be sent again to try again, or to repair what the disk lost.
                if upload.disabled || self.serves(&name) {
                    return Ok(self.staged(name, Outcome::Unchanged, None));
                }
                (Outcome::Replaced, upload.clone())
            }
            Some(upload) => {
                let mut upload = upload.clone();
                upload.push(digest, size, spec, now, &self.limits);
                (Outcome::Replaced, upload)
            }
        };
        self.stage_upload(name, upload, module, outcome).await
    }

    async fn stage_rollback(&mut self, name: String, to: Option<&str>) -> Result<Staged, ApiError> {
        self.check_not_a_resource(&name)?;
        let mut upload = self.upload(&name)?.clone();
        let wanted = to.map_or(Some(Wanted::Before), Wanted::parse).ok_or_else(|| {
            let message = "must be the number of a version, or at least 12 digits of its sha256";
            ApiError::new(400, "version-invalid", message).at("to")
        })?;
        let before = upload.current.number;
        if !upload.roll_back(&wanted) {
            let mut numbers: Vec<_> = upload.versions().map(|version| version.number).collect();
            numbers.sort_unstable();
            return Err(match to {
                None => ApiError::new(
                    409,
                    "version-none-before",
                    format!("nothing served before version {before} of {name}; name one with ?to= (kept: {numbers:?})"),
                ),
                Some(to) => {
                    ApiError::new(404, "version-unknown", format!("{name} has no version {to}; kept are {numbers:?}"))
                        .at("to")
                }
            });
        }
        if upload.current.number == before && (upload.disabled || self.serves(&name)) {
            return Ok(self.staged(name, Outcome::Unchanged, None));
        }
        self.stage_upload(name, upload, None, Outcome::Replaced).await
    }

    async fn stage_enable(&mut self, name: String, enabled: bool) -> Result<Staged, ApiError> {
        self.check_not_a_resource(&name)?;
        let mut upload = self.upload(&name)?.clone();
        let same = upload.disabled != enabled;
        // One that failed may be enabled again to try again.
        if same && (!enabled || self.serves(&name)) {
            return Ok(self.staged(name, Outcome::Unchanged, None));
        }
        upload.disabled = !enabled;
        self.stage_upload(name, upload, None, Outcome::Replaced).await
    }

    async fn stage_delete(&mut self, name: String) -> Result<Staged, ApiError> {
        self.check_not_a_resource(&name)?;
        self.upload(&name)?;
        let mut uploads = self.store.uploads().clone();
        uploads.remove(&name);
        let prepared = self.store.prepare(uploads, None).await.map_err(|error| storage(&error))?;
        Ok(self.staged(name, Outcome::Deleted, Some(prepared)))
    }

    /// Checks that `upload` works, unless it is only taken out of the chain, and prepares it on disk.
    async fn stage_upload(
        &mut self,
        name: String,
        upload: Upload,
        module: Option<(Digest, Bytes)>,
        outcome: Outcome,
    ) -> Result<Staged, ApiError> {
        let mut uploads = self.store.uploads().clone();
        let known = uploads.insert(name.clone(), upload.clone());
        self.make_room(&mut uploads)?;
        let switched_off = upload.disabled && known.is_some_and(|known| known.current == upload.current);
        if !switched_off {
            let digest = upload.current.digest;
            let loaded = match &module {
                Some((digest, bytes)) => self.loader.compile(*digest, bytes.clone()).await,
                None => self.loader.load(&Source::Stored(digest, self.store.blob(&digest))).await,
            };
            self.try_out(&name, &upload, loaded.map_err(refused)?).await?;
        }
        let prepared = self.store.prepare(uploads, module).await.map_err(|error| storage(&error))?;
        Ok(self.staged(name, outcome, Some(prepared)))
    }

    /// Starts one instance: whether a plugin takes its configuration is known to nobody else, and a listener
    /// that would find out may not exist yet.
    async fn try_out(&mut self, name: &str, upload: &Upload, loaded: Loaded) -> Result<(), ApiError> {
        let candidate = self.candidate(name, upload);
        let key = candidate.key();
        let Candidate { declaration, refusal, .. } = candidate;
        if let Some(refusal) = refusal {
            return Err(ApiError::new(422, "settings-invalid", refusal.message).at("settings"));
        }
        let module = loaded.module.clone();
        let version = self.version(&declaration, &key, loaded);
        if self.live.get(&key).is_none_or(|live| live.id != version.id) {
            let settings = declaration.start_settings(&self.limits.running);
            prepare::try_out(module, settings).await.map_err(|error| ApiError::from(&error))?;
        }
        self.forget_refusal(version.id);
        Ok(())
    }

    fn upload(&self, name: &str) -> Result<&Upload, ApiError> {
        self.store.uploads().get(name).ok_or_else(|| ApiError::plugin_unknown(name))
    }

    fn staged(&self, name: String, outcome: Outcome, prepared: Option<Prepared>) -> Staged {
        Staged { name, outcome, prepared, namespace: self.namespace.clone() }
    }

    fn check_not_a_resource(&self, name: &str) -> Result<(), ApiError> {
        match self.declared.get(name) {
            None => Ok(()),
            Some(place) => Err(ApiError::new(
                409,
                "plugin-is-resource",
                format!(
                    "{name} is declared by a WasmPlugin resource ({place}); change it there or choose another name"
                ),
            )),
        }
    }

    fn make_room(&self, uploads: &mut Uploads) -> Result<(), ApiError> {
        let (limit, stored) = (self.limits.uploads, self.limits.stored_bytes);
        if uploads.len() > limit {
            return Err(ApiError::new(
                409,
                "uploads-limit",
                format!("there are {limit} uploads already; delete one first"),
            ));
        }
        if !upload::make_room(uploads, stored) {
            let message = format!("all uploaded modules together may have {stored} bytes; delete some first");
            return Err(ApiError::new(413, "store-full", message).at("module"));
        }
        Ok(())
    }

    fn serves(&self, name: &str) -> bool {
        let views = self.views.load();
        views.iter().any(|view| {
            view.name == name && view.namespace == self.namespace && view.state == State::Live && view.reason.is_empty()
        })
    }
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = name.as_bytes();
    if bytes.len() <= 63 && bytes.iter().all(inner) && edge(bytes.first()) && edge(bytes.last()) {
        return Ok(());
    }
    let message = "the name of a plugin has 1 to 63 lower-case letters, digits and hyphens, no hyphen first or last";
    Err(ApiError::new(400, "name-invalid", message).at("name"))
}

fn refused(error: LoadError) -> ApiError {
    let status = match error.code {
        "module-compile-busy" => 503,
        "module-too-large" => 413,
        _ => 422,
    };
    ApiError::new(status, error.code, error.message).at("module")
}

fn storage(error: &io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ApiError::new(507, "storage-full", format!("the disk of the data directory is full: {error}"))
        }
        _ => ApiError::new(500, "storage-failed", format!("the data directory cannot be written: {error}")),
    }
}
