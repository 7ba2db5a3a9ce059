//! `gateway analyze`: what is wrong with a folder of resources, in istioctl's shape.
//!
//! Problems go to stdout, the summary to stderr. Exit codes are istioctl's: 0 nothing found, 79 issues
//! found, 65 data that cannot be read, 64 usage (which `cli::main` finds).

use std::{
    fmt::Write as _,
    io::{self, Write},
    process::ExitCode,
};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::options::ConfigArgs;
use crate::config::{
    self, Store, Surroundings, compile,
    problem::{BEYOND_LIMIT, Level, Problem},
    source::FileSource,
};

/// `EX_DATAERR` of sysexits.h.
const UNREADABLE: u8 = 65;
/// istioctl's code for findings.
const FOUND: u8 = 79;

/// Check Istio resources without running them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print what was found.
    #[arg(short, long, value_enum, default_value_t = Output::Log)]
    output: Output,

    /// Which findings make the command fail.
    #[arg(long, value_enum, ignore_case = true, default_value_t = Level::Error)]
    failure_threshold: Level,

    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line per finding, as istioctl.
    Log,
    Json,
    Yaml,
}

/// Runs the command.
pub(super) fn run(args: Args) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let mut stderr = io::stderr().lock();
    ExitCode::from(analyze(args, &mut stdout, &mut stderr))
}

fn analyze(args: Args, stdout: &mut dyn Write, stderr: &mut dyn Write) -> u8 {
    let Args { output, failure_threshold, config } = args;
    let source = match FileSource::new(config.files.clone()) {
        Ok(source) => source,
        Err(error) => {
            say(stderr, &format!("Error: {error}"));
            return UNREADABLE;
        }
    };
    let options = config.options();
    let mut store = Store::new(options.clone());
    store.update(source.read());
    let (_, declared) = compile::declarations(store.resources(), &options);
    let mut surroundings = Surroundings::default();
    surroundings.refresh(store.resources(), &options);
    let (_, compiled) = compile::compile(store.resources(), &options, &[], &surroundings);
    let mut problems = store.problems().to_vec();
    problems.extend(declared.into_iter().chain(compiled));
    problems.sort_by(Problem::by_place);

    let text = match output {
        Output::Log => problems.iter().fold(String::new(), |mut text, problem| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{problem}");
            text
        }),
        Output::Json => format!("{:#}\n", as_json(&problems)),
        Output::Yaml => config::to_yaml(&as_json(&problems)),
    };
    // A reader that went away (`| head`) is no reason to fail.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    let names: Vec<String> = config.files.iter().map(|path| path.display().to_string()).collect();
    say(stderr, &summary(&problems, store.resources().len(), &names.join(", ")));
    exit_code(&problems, failure_threshold)
}

/// One array element per problem with istioctl's fields, and ours for the place.
fn as_json(problems: &[Problem]) -> Value {
    let all = problems.iter().map(|problem| {
        let mut one = json!({
            "code": problem.code,
            "level": problem.level.as_str(),
            "message": problem.message,
            "origin": problem.resource,
            "reference": if problem.line > 0 { format!("{}:{}", problem.file, problem.line) } else { problem.file.clone() },
            "field": problem.field,
        });
        if problem.code.starts_with("IST") {
            let page = problem.code.to_ascii_lowercase();
            one["documentationUrl"] = format!("https://istio.io/latest/docs/reference/config/analysis/{page}/").into();
        }
        one
    });
    Value::Array(all.collect())
}

fn summary(problems: &[Problem], resources: usize, names: &str) -> String {
    if problems.is_empty() {
        return format!("✔ No validation issues found when analyzing {names} ({}).", count(resources, "resource"));
    }
    let of = |level| problems.iter().filter(|problem| problem.level == level).count();
    let found = [(Level::Error, "error"), (Level::Warning, "warning"), (Level::Info, "note")]
        .map(|(level, name)| (of(level), name))
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, name)| count(number, name))
        .collect::<Vec<_>>()
        .join(", ");
    format!("{found} found when analyzing {names} ({} in use).", count(resources, "resource"))
}

fn count(number: usize, name: &str) -> String {
    if number == 1 { format!("1 {name}") } else { format!("{number} {name}s") }
}

/// Data that could not be read comes first: the analysis is not complete then.
fn exit_code(problems: &[Problem], threshold: Level) -> u8 {
    let unreadable = |problem: &Problem| {
        matches!(problem.code, "GW0001" | "GW0002") || (problem.code == BEYOND_LIMIT && problem.resource.is_empty())
    };
    if problems.iter().any(|problem| unreadable(problem) && problem.level == Level::Error) {
        UNREADABLE
    } else if problems.iter().any(|problem| problem.level >= threshold) {
        FOUND
    } else {
        0
    }
}

/// Chatter; there is nobody to tell if stderr is closed.
fn say(stderr: &mut dyn Write, text: &str) {
    let _ = writeln!(stderr, "{text}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    /// Exit code, stdout and stderr; `DIR` stands for a folder with `f.yaml`.
    fn run(yaml: &str, arguments: &[&str]) -> (u8, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().to_str().unwrap();
        fs::write(folder.path().join("f.yaml"), yaml).unwrap();
        let arguments = arguments.iter().map(|argument| argument.replace("DIR", name));
        let command = Command::try_parse_from(std::iter::once("analyze".to_owned()).chain(arguments)).unwrap();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = analyze(command.args, &mut stdout, &mut stderr);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(name, "DIR");
        (code, text(stdout), text(stderr))
    }

    const GATEWAY: &str = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  servers:\n  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}\n";
    const BROKEN: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [a]\n  gateways: [x]\n  http: [{directResponse: {status: 200}, corsPolicy: {}}]\n";

    #[test]
    fn nothing_found() {
        let (code, stdout, stderr) = run(GATEWAY, &["-f", "DIR"]);
        assert_eq!((code, stdout.as_str()), (0, ""));
        assert_eq!(stderr, "✔ No validation issues found when analyzing DIR (1 resource).\n");
    }

    #[test]
    fn issues_have_istioctls_shape() {
        let (code, stdout, stderr) = run(&format!("{GATEWAY}{BROKEN}"), &["-f", "DIR/f.yaml"]);
        assert_eq!(code, FOUND);
        assert_eq!(
            stdout,
            "Error [IST0101] (VirtualService default/reviews DIR/f.yaml:13) spec.gateways[0]: Referenced gateway not found: \"x\"\n\
             Warning [GW0101] (VirtualService default/reviews DIR/f.yaml:14) spec.http[0].corsPolicy: not supported in this version, ignored: corsPolicy\n"
        );
        assert_eq!(stderr, "1 error, 1 warning found when analyzing DIR/f.yaml (2 resources in use).\n");
    }

    #[test]
    fn json_and_yaml() {
        let yaml = format!("{GATEWAY}{BROKEN}");
        let (_, stdout, _) = run(&yaml, &["-f", "DIR", "-o", "json"]);
        let found: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(found[0]["reference"], "DIR/f.yaml:13");
        assert_eq!(found[0]["origin"], "VirtualService default/reviews");
        assert_eq!(found[0]["documentationUrl"], "https://istio.io/latest/docs/reference/config/analysis/ist0101/");
        assert_eq!(found[1]["level"], "Warning");
        let (_, stdout, _) = run(&yaml, &["-f", "DIR", "-o", "yaml"]);
        assert!(stdout.starts_with("- code: IST0101\n"), "{stdout}");
    }

    #[test]
    fn the_threshold_decides() {
        let warning = format!("{GATEWAY}{}", BROKEN.replace("gateways: [x]", "gateways: [g]"));
        for (threshold, expected) in [("Error", 0), ("warning", FOUND), ("Info", FOUND)] {
            assert_eq!(run(&warning, &["-f", "DIR", "--failure-threshold", threshold]).0, expected, "{threshold}");
        }
    }

    #[test]
    fn what_cannot_be_read() {
        assert_eq!(run("a: [", &["-f", "DIR"]).0, UNREADABLE);
        let (code, _, stderr) = run(GATEWAY, &["-f", "DIR/missing"]);
        assert_eq!(code, UNREADABLE);
        assert!(stderr.starts_with("Error: -f DIR/missing: No such file"), "{stderr}");
    }
}
