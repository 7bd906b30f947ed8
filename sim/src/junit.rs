//! JUnit's XML, which CI systems read: one suite, one case for each run.

use std::fmt::Write;

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Case {
    /// Such as `seed 7`.
    pub(crate) name: String,
    /// Processor seconds.
    pub(crate) seconds: f64,
    /// How it failed, if it did.
    pub(crate) failure: Option<Failed>,
}

/// How a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Whether it is a crash: JUnit's *error*. Correctness and liveness are its *failures*.
    pub(crate) crash: bool,
    /// The oracle.
    pub(crate) oracle: String,
    /// Everything that the run printed.
    pub(crate) output: String,
}

/// The document.
pub(crate) fn document(suite: &str, cases: &[Case]) -> String {
    let crashes = |case: &&Case| case.failure.as_ref().is_some_and(|failed| failed.crash);
    let errors = cases.iter().filter(crashes).count();
    let failed = cases.iter().filter(|case| case.failure.is_some()).count();
    let seconds: f64 = cases.iter().map(|case| case.seconds).sum();
    let suite = escaped(suite);
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{errors}\" time=\"{seconds:.3}\"",
        cases.len(),
        failed - errors
    );
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    push(&mut text, &format!("<testsuites {counts}>"));
    push(
        &mut text,
        &format!("  <testsuite name=\"{suite}\" {counts}>"),
    );
    for case in cases {
        push(&mut text, &element(&suite, case));
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

fn push(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("text takes every line");
}

fn element(suite: &str, case: &Case) -> String {
    let head = format!(
        "    <testcase classname=\"{suite}\" name=\"{}\" time=\"{:.3}\"",
        escaped(&case.name),
        case.seconds
    );
    match &case.failure {
        None => format!("{head}/>"),
        Some(failed) => {
            let tag = if failed.crash { "error" } else { "failure" };
            format!(
                "{head}>\n      <{tag} type=\"{}\">{}</{tag}>\n    </testcase>",
                escaped(&failed.oracle),
                escaped(failed.output.trim_end())
            )
        }
    }
}

/// Text as XML has it; characters that XML 1.0 cannot hold become U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(letter),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            control if control < ' ' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_reads_like_a_test_run() {
        let failed = |crash, output: &str| {
            Some(Failed {
                crash,
                oracle: "copies".into(),
                output: output.into(),
            })
        };
        let case = |name: &str, failure| Case {
            name: name.into(),
            seconds: 0.25,
            failure,
        };
        let cases = [
            case("seed 1", None),
            case("seed 2", failed(false, "a < b & \"c\"\u{1b}[0m\nd\n")),
            case("seed 3", failed(true, "a panic")),
        ];
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="3" failures="1" errors="1" time="0.750">
  <testsuite name="sweep" tests="3" failures="1" errors="1" time="0.750">
    <testcase classname="sweep" name="seed 1" time="0.250"/>
    <testcase classname="sweep" name="seed 2" time="0.250">
      <failure type="copies">a &lt; b &amp; &quot;c&quot;?[0m
d</failure>
    </testcase>
    <testcase classname="sweep" name="seed 3" time="0.250">
      <error type="copies">a panic</error>
    </testcase>
  </testsuite>
</testsuites>
"#;
        assert_eq!(
            document("sweep", &cases),
            expected
                .replace('?', "\u{fffd}")
                .replace("<\u{fffd}xml", "<?xml")
                .replace("\"UTF-8\"\u{fffd}>", "\"UTF-8\"?>")
        );
    }
}
