//! What one instance carries beside its linear memory: the data that host functions work on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{Memory, ResourceLimiter, TypedFunc};

use crate::abi::{AbiVersion, LogLevel};
use crate::calls::Calls;
use crate::contexts::{Contexts, ROOT};
use crate::deadline::{Budget, Deadline};
use crate::engine::Living;
use crate::expressions::Expressions;
use crate::log::{self, LogLine, Rate, Verdict};
use crate::names::Names;
use crate::plugin::Inner;
use crate::shared::{Inbox, MetricIds, Quota};
use crate::{ContextId, Effects, Exchange, Isolation, Limits};

/// Log lines kept from the start-up, for the error message.
const START_LINES: usize = 20;
/// Length to which each of them is cut.
const START_LINE_BYTES: usize = 1024;

/// What part of its life an instance is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Start-up code of the language runtime: only logging, time and WASI may be called.
    Initializing,
    /// From `on_context_create` of the root to `on_vm_start`.
    VmStart,
    /// `on_configure`
    Configure,
    Running,
}

/// The end of a root context, which the plugin may postpone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Retirement {
    #[default]
    Serving,
    /// `on_done` returned false: `proxy_done` will follow.
    Postponed,
    Done,
}

/// The data of one instance.
pub(crate) struct State {
    pub(crate) plugin: Arc<Inner>,
    pub(crate) stage: Stage,
    pub(crate) contexts: Contexts,
    /// The stream a callback is about; `None` for the root context.
    pub(crate) current: Option<ContextId>,
    /// The stream host functions work on: the current one, unless the plugin chose another.
    pub(crate) effective: Option<ContextId>,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocator: Option<TypedFunc<u32, u32>>,
    /// Where short answers may be put; within the memory.
    pub(crate) small_answers: Option<u32>,
    /// The plugin's allocator is running on behalf of a host function.
    pub(crate) allocating: bool,
    pub(crate) deadline: Deadline,
    pub(crate) growth: Growth,
    pub(crate) tick_period: Option<Duration>,
    pub(crate) metrics: MetricIds,
    /// News about queues it has registered.
    pub(crate) inbox: Arc<Inbox>,
    /// Whether its root context has been told that it is over.
    pub(crate) retirement: Retirement,
    pub(crate) expressions: Expressions,
    /// What it has asked of other services.
    pub(crate) calls: Calls,
    /// Of header fields.
    pub(crate) names: Names,
    rate: Rate,
    _living: Living,
    start_log: Option<VecDeque<String>>,
}

impl State {
    /// For an instance whose start may take so long.
    pub(crate) fn new(plugin: Arc<Inner>, budget: Budget) -> Self {
        let limits = &plugin.settings.limits;
        let growth = Growth {
            memory_limit: limits.memory_bytes,
            table_limit: limits.table_elements,
            refused: false,
            plugin: plugin.clone(),
        };
        Self {
            stage: Stage::Initializing,
            contexts: Contexts::new(),
            current: None,
            effective: None,
            memory: None,
            allocator: None,
            small_answers: None,
            allocating: false,
            deadline: Deadline::new(budget),
            growth,
            tick_period: None,
            metrics: MetricIds::default(),
            inbox: Arc::default(),
            retirement: Retirement::default(),
            expressions: Expressions::default(),
            calls: Calls::default(),
            names: match plugin.settings.isolation {
                Isolation::Worker => Names::remembered(),
                // It does not live long enough to write a name twice.
                Isolation::Request => Names::default(),
            },
            rate: Rate::default(),
            _living: plugin.module.clock().join(),
            start_log: Some(VecDeque::new()),
            plugin,
        }
    }

    pub(crate) fn abi(&self) -> AbiVersion {
        self.plugin.module.abi()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.plugin.settings.limits
    }

    /// The start-up is over: callbacks get their own, smaller budget.
    pub(crate) fn started(&mut self) {
        self.stage = Stage::Running;
        self.start_log = None;
        let limits = &self.plugin.settings.limits;
        let budget = Budget { cpu: limits.callback_cpu, wall: limits.callback_wall };
        self.deadline.set_budget(budget);
    }

    /// A callback about this stream (or the root context) begins.
    pub(crate) fn enter(&mut self, context: Option<ContextId>) {
        self.current = context;
        self.effective = context;
        self.growth.refused = false;
        if self.stage == Stage::Running {
            self.deadline.restart();
        }
    }

    /// Whether only harmless host functions may be called (proxy-wasm-cpp-host does the same:
    /// language runtimes are not ready for anything else then).
    pub(crate) fn is_restricted(&self) -> bool {
        self.stage == Stage::Initializing || self.allocating
    }

    /// The exchange of the effective context, if it is attached.
    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        self.contexts.exchange(self.effective?)
    }

    /// As [`State::exchange`], to change it.
    pub(crate) fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        self.contexts.exchange_mut(self.effective?)
    }

    /// Where wishes about the effective stream go, also if its exchange is elsewhere while the plugin pauses it.
    pub(crate) fn effects_mut(&mut self) -> Option<&mut Effects> {
        self.contexts.effects_mut(self.effective?)
    }

    /// Something was done to the effective stream that the HTTP layer must notice even though the
    /// callback is about another one.
    pub(crate) fn wake_effective(&mut self) {
        if self.effective != self.current
            && let Some(context) = self.effective
        {
            self.contexts.wake(context);
        }
    }

    /// Counts something refused at a limit.
    pub(crate) fn refuse(&self, quota: Quota) {
        self.plugin.scope.refuse(quota);
    }

    /// A line of the plugin. Lines below the configured level cost nothing but the check.
    pub(crate) fn log(&mut self, level: LogLevel, message: &[u8]) {
        let plugin = self.plugin.clone();
        let limits = &plugin.settings.limits;
        if let Some(lines) = &mut self.start_log {
            if lines.len() >= START_LINES {
                lines.pop_front();
            }
            lines.push_back(log::text(message, START_LINE_BYTES).into_owned());
        }
        if level < plugin.settings.log_level {
            return;
        }
        let message = log::text(message, limits.log_line_bytes);
        let verdict = self.rate.admit(Instant::now(), message.len(), limits);
        if let Verdict::WriteAfter(dropped) = verdict {
            self.write(
                LogLevel::Warn,
                &format!("{dropped} log lines of this plugin were dropped: it logs more than its limit"),
            );
        }
        match verdict {
            Verdict::Drop => self.refuse(Quota::Log),
            Verdict::Write | Verdict::WriteAfter(_) => self.write(level, &message),
        }
    }

    /// A note of the host about the plugin, under the plugin's own rate limit.
    pub(crate) fn note(&mut self, message: &str) {
        self.log(LogLevel::Warn, message.as_bytes());
    }

    fn write(&self, level: LogLevel, message: &str) {
        let context = self.effective.map_or(ROOT, ContextId::number);
        self.plugin.shared.log(LogLine { plugin: &self.plugin.settings.name, context, level, message });
    }

    /// The last lines logged during the start-up.
    pub(crate) fn start_lines(&mut self) -> Vec<String> {
        self.start_log.take().map(Vec::from).unwrap_or_default()
    }
}

/// Decides whether memory and tables may grow.
pub(crate) struct Growth {
    memory_limit: usize,
    table_limit: usize,
    /// The plugin was refused memory in the present callback, or while it started.
    pub(crate) refused: bool,
    plugin: Arc<Inner>,
}

impl ResourceLimiter for Growth {
    fn memory_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= self.memory_limit && maximum.is_none_or(|maximum| desired <= maximum);
        if !allowed {
            self.refused = true;
            self.plugin.scope.refuse(Quota::Memory);
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_limit)
    }

    fn instances(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        1
    }
}
