//! Every form a history comes in is read back as it was written, or refused where it is wrong.

use hedgerow_jepsen::fuzz::Dice;
use hedgerow_jepsen::history::{Event, EventKind, Float, History, Process, Value, edn};
use std::collections::{BTreeMap, BTreeSet};

fn random_value(dice: &mut Dice, depth: u64) -> Value {
    let text = |dice: &mut Dice| {
        let letters = ['a', '"', '\\', '\n', 'ß', '\t', ' ', ';'];
        (0..dice.below(5))
            .map(|_| *dice.pick(&letters))
            .collect::<String>()
    };
    let items = |dice: &mut Dice| -> Vec<Value> {
        (0..dice.below(4))
            .map(|_| random_value(dice, depth + 1))
            .collect()
    };
    match dice.below(if depth < 3 { 14 } else { 9 }) {
        0 => Value::Nil,
        1 => Value::Bool(dice.once_in(2)),
        2 | 3 => Value::Int(dice.roll().cast_signed() >> dice.below(64)),
        4 => Value::Float(Float(*dice.pick(&[0.5, -1e30, f64::INFINITY, 3.0]))),
        5 => Value::Char(*dice.pick(&['x', '\n', '\\', 'ä', '('])),
        6 => Value::String(text(dice)),
        7 => Value::Keyword("some/key-word".to_owned()),
        8 => Value::Symbol("a-symbol".to_owned()),
        9 => Value::List(items(dice)),
        10 => Value::Vector(items(dice)),
        11 => Value::Set(items(dice).into_iter().collect::<BTreeSet<_>>()),
        12 => {
            let pairs = items(dice).into_iter().map(|key| (key, Value::Int(1)));
            Value::Map(pairs.collect::<BTreeMap<_, _>>())
        }
        _ => Value::Tagged(
            "a.tag/of".to_owned(),
            Box::new(random_value(dice, depth + 1)),
        ),
    }
}

fn random_event(dice: &mut Dice, line: u64) -> Event {
    let kinds = [
        EventKind::Invoke,
        EventKind::Ok,
        EventKind::Fail,
        EventKind::Info,
    ];
    Event {
        line,
        kind: *dice.pick(&kinds),
        process: match dice.below(5) {
            0 => Process::Named("nemesis".to_owned()),
            _ => Process::Client(dice.roll() >> (1 + dice.below(63))),
        },
        function: "write".to_owned(),
        key: None,
        value: random_value(dice, 0),
        time_ns: dice.once_in(2).then(|| dice.roll().cast_signed()),
        error: dice.once_in(4).then(|| Value::keyword("timeout")),
    }
}

fn random_history(seed: u64) -> History {
    let mut dice = Dice::new(11, seed);
    let events = (1..=dice.below(20))
        .map(|line| random_event(&mut dice, line))
        .collect();
    History {
        events,
        dropped_bytes: 0,
    }
}

#[test]
fn what_is_written_is_read_back() {
    for seed in 0..3_000 {
        let history = random_history(seed);
        let binary = History::parse(&history.to_binary()).expect("our own form");
        assert_eq!(binary, history);
        if history.events.is_empty() {
            continue;
        }
        // A newline inside a string moves later lines; nothing else may differ.
        let mut edn = History::parse(history.to_edn().as_bytes()).expect("our own EDN");
        edn.events
            .iter_mut()
            .zip(1..)
            .for_each(|(event, line)| event.line = line);
        assert_eq!(edn, history, "{}", history.to_edn());
    }
}

#[test]
fn a_crash_loses_the_last_record_only() {
    let history = random_history(5);
    let whole = history.to_binary();
    for length in 8..whole.len() {
        let torn = History::parse(&whole[..length]).expect("torn at the end");
        assert!(torn.events.len() <= history.events.len());
        assert_eq!(torn.events[..], history.events[..torn.events.len()]);
        let kept = torn.to_binary().len();
        assert_eq!(torn.dropped_bytes, (length - kept) as u64);
    }
    let mut extended = whole.clone();
    extended.extend([0; 4096]);
    let torn = History::parse(&extended).expect("a file extended before its bytes arrived");
    assert_eq!((torn.events, torn.dropped_bytes), (history.events, 4096));
}

#[test]
fn damage_before_the_end_is_refused_with_its_record() {
    let history = random_history(5);
    let mut bytes = history.to_binary();
    bytes[8 + 8] ^= 1;
    let error = History::parse(&bytes).expect_err("the first payload is damaged");
    assert_eq!(
        error.to_string(),
        "record 1: expected an intact record, found a wrong checksum"
    );
}

#[test]
fn no_input_makes_a_reader_panic() {
    let mut dice = Dice::new(13, 0);
    let pieces: [&[u8]; 16] = [
        b"{",
        b"}",
        b"[",
        b"(",
        b"#{",
        b"\"",
        b"\\",
        b":type",
        b" :ok ",
        b"#_",
        b"\n",
        b"1",
        b"INFO  jepsen.util - ",
        b"\t",
        b"HGHIST\x01\0",
        b"\xff",
    ];
    let mut refused = 0;
    for _ in 0..50_000 {
        let text: Vec<u8> = (0..dice.below(12))
            .flat_map(|_| dice.pick(&pieces).iter().copied())
            .collect();
        refused += u64::from(History::parse(&text).is_err());
    }
    assert!(refused > 10_000);
    assert!(
        History::parse("[".repeat(1_000_000).as_bytes()).is_err(),
        "nested too deep"
    );
    assert!(
        History::parse("#_".repeat(1_000_000).as_bytes()).is_err(),
        "nested too deep"
    );
}

#[test]
fn edn_is_read_as_specified() {
    let read = |text: &str| edn::read_one(text).map(|value| value.to_string());
    let same = |text: &str| assert_eq!(read(text).as_deref(), Ok(text));
    [
        "nil",
        "true",
        "-12",
        "1.5",
        "\"a\\\"b\\n\"",
        ":a/b",
        "sym",
        "(1 2)",
        "[]",
        "#{1 2}",
        "{:a 1 :b [2]}",
        "#inst \"2026\"",
        "\\a",
        "\\newline",
        "##Inf",
    ]
    .into_iter()
    .for_each(same);
    assert_eq!(
        read("[1, 2 ; three\n #_ 3 4 #_#_5 6]").as_deref(),
        Ok("[1 2 4]")
    );
    assert_eq!(read("7N").as_deref(), Ok("7"));
    assert_eq!(read("1e3").as_deref(), Ok("1000.0"));
    assert_eq!(read("\\u0041").as_deref(), Ok("\\A"));
    let error = |text: &str| edn::read_one(text).expect_err("refused").to_string();
    assert_eq!(
        error("[1\n2"),
        "line 2: expected ] for the bracket opened in line 1, found the end of the text"
    );
    assert_eq!(
        error("{:a}"),
        "line 1: expected a value for every key of the map, found an odd number of forms"
    );
    assert_eq!(
        error("1/2"),
        "line 1: expected a 64-bit integer or a decimal number, found 1/2"
    );
    assert_eq!(
        error("99999999999999999999"),
        "line 1: expected a 64-bit integer or a decimal number, found 99999999999999999999"
    );
    assert_eq!(
        error("1 2"),
        "line 1: expected the end of the text, found 2"
    );
}

#[test]
fn the_golden_vector_of_the_format_page_holds() {
    let golden = [
        0x48, 0x47, 0x48, 0x49, 0x53, 0x54, 0x01, 0x00, 0x1f, 0x00, 0x00, 0x00, 0xf8, 0x56, 0xd9,
        0xba, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00,
        0x77, 0x72, 0x69, 0x74, 0x65, 0x00, 0x00, 0x00, 0x03, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00,
    ];
    let history = History::parse(b"3\t:invoke\t:write\t7\n").expect("one line");
    assert_eq!(history.to_binary(), golden);
    assert_eq!(History::parse(&golden).expect("golden"), history);
}

#[test]
fn what_is_written_as_a_log_is_read_back_but_for_its_times() {
    let log = "INFO  jepsen.util - 3\t:invoke\t:cas\t[1 4]\n\
               INFO  jepsen.util - 3\t:info\t:cas\t[1 4]\t:timed-out\n\
               INFO  jepsen.util - :nemesis\t:info\t:start\tnil\n";
    let history = History::parse(log.as_bytes()).unwrap();
    assert_eq!(history.to_log(), log);
    let keyed = "{:type :invoke, :process 0, :f :read, :value nil, :key 7, :time 5}\n\
                 {:type :ok, :process 0, :f :read, :value 2, :key 7, :time 6}\n";
    let written = History::parse(keyed.as_bytes()).unwrap().to_log();
    let expected = "INFO  jepsen.util - 0\t:invoke\t:read\t[7 nil]\n\
                    INFO  jepsen.util - 0\t:ok\t:read\t[7 2]\n";
    assert_eq!(written, expected);
}

#[test]
fn columns_parted_by_blanks_are_those_parted_by_tabs() {
    let tabs =
        "INFO  jepsen.util - 1\t:invoke\t:cas\t[1 2]\nINFO  jepsen.util - 1\t:ok\t:cas\t[1 2]\n";
    let blanks = tabs.replace('\t', "   ");
    let read = |text: &str| History::parse(text.as_bytes()).expect("two lines");
    assert_eq!(read(&blanks), read(tabs));
    let without_value = History::parse(b"3 :invoke :read\n").expect("one line");
    let expected = History::parse(b"3\t:invoke\t:read\tnil\n").expect("one line");
    assert_eq!(without_value, expected);
    let error = History::parse(b"3 :invoke\n").expect_err("no function");
    assert!(error.to_string().contains("a function"), "{error}");
}

#[test]
fn a_key_beside_the_value_is_the_key() {
    let text = "{:process 9, :type :invoke, :f :append, :key \"0\", :value \"x\"}\n\
                {:process 9, :type :ok, :f :append, :key \"0\", :value \"x\"}\n";
    let history = History::parse(text.as_bytes()).expect("two maps");
    let calls = history.calls().expect("one call");
    assert_eq!(
        calls[0].key.as_ref().map(ToString::to_string).as_deref(),
        Some("\"0\"")
    );
}

/// What Jepsen's own logger has written for years, and EDN as Clojure prints it.
#[test]
fn lines_and_values_as_clojure_writes_them_are_read() {
    let classic = "2019-11-15 12:14:11,123{GMT}\tINFO\t[jepsen worker 0] jepsen.util: 0\t:invoke\t:write\t1\n\
                   2019-11-15 12:14:11,124{GMT}\tINFO\t[main] jepsen.utilities: 1\t:invoke\t:read\tnil\n\
                   2019-11-15 12:14:11,125{GMT}\tINFO\t[jepsen worker 0] jepsen.util: 0\t:ok\t:write\t1\n";
    let history = History::parse(classic.as_bytes()).unwrap();
    assert_eq!(history.events.len(), 2);
    let edn = "\u{feff}; lines of jepsen.util - as maps\n\
               #:jepsen{:type :invoke}\n";
    let error = History::parse(edn.as_bytes()).unwrap_err().to_string();
    assert!(
        error.contains(":type"),
        "the keys are of a namespace: {error}"
    );
    let value = |text: &str| edn::read_one(text).unwrap();
    assert_eq!(value("#:a{:b 1, :_/c 2}"), value("{:a/b 1, :c 2}"));
    assert_eq!(
        value("\"\\ud83d\\ude00\""),
        Value::String("\u{1f600}".into())
    );
    assert!(edn::read_one("\"\\ud83d\"").is_err());
    assert_eq!(value("0x1f"), Value::Int(31));
    assert_eq!(value("-0x1f"), Value::Int(-31));
    for odd in ["0x", "0x-5", "-0x-8000000000000000", "0x8000000000000000"] {
        assert!(edn::read_one(odd).is_err(), "{odd}");
    }
    assert_ne!(value("5M"), value("5.0"));
    assert!(edn::read_one("#object[Foo 0x1f \"x\"]").is_ok());
}

#[test]
fn a_key_of_a_call_is_written_with_its_ending() {
    let text = "{:type :invoke :process 0 :f :write :key 1 :value 5}\n\
                {:type :ok :process 0 :f :write :value 5}\n";
    let history = History::parse(text.as_bytes()).unwrap();
    let again = History::parse(history.to_edn().as_bytes()).unwrap();
    let values: Vec<String> = again.events.iter().map(|e| e.value.to_string()).collect();
    assert_eq!(values, ["[1 5]", "[1 5]"]);
    let odd = "{:type :invoke :process 0 :f \"a b\" :value 5}";
    let history = History::parse(odd.as_bytes()).unwrap();
    let again = History::parse(history.to_edn().as_bytes()).unwrap();
    assert_eq!(again.events[0].function, "a b");
}
