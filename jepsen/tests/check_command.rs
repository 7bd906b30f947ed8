//! Histories as other tools write them, through the command that judges them.

use hedgerow_jepsen::check::{Model, Objects};
use hedgerow_jepsen::command::{Asked, check, check_as};

const ETCD_VALID: &[u8] = include_bytes!("histories/etcd-valid.log");
const ETCD_STALE: &[u8] = include_bytes!("histories/etcd-stale.log");
const CAS_VALID: &[u8] = include_bytes!("histories/cas-register-valid.edn");
const CAS_INVALID: &[u8] = include_bytes!("histories/cas-register-invalid.edn");
const G_SINGLE: &[u8] = include_bytes!("histories/append-g-single.edn");

/// Judges a history and compares the whole output.
fn expect(model: &str, initial: Option<&str>, history: &[u8], code: i32, output: &str) {
    let (found_code, found) = check(model, initial, history, false);
    assert_eq!((found_code, found.trim_end()), (code, output.trim_end()));
}

#[test]
fn a_log_of_a_register_is_read_and_explained() {
    expect(
        "cas-register",
        None,
        ETCD_VALID,
        0,
        "valid: 8 operations, model cas-register",
    );
}

#[test]
fn a_stale_read_after_a_new_one_is_shown_with_the_operations_that_prove_it() {
    expect(
        "cas-register",
        None,
        ETCD_STALE,
        1,
        "invalid: model cas-register
  operation 2 saw the effect of operation 3, or of one after it, yet finished before 3 began
  these 4 of 5 operations cannot be explained:
    operation 0: process 0, lines 1 to 2, :write 3 -> ok 3
    operation 1: process 1, lines 3 to 8, :cas [3 4] -> ok [3 4]
    operation 2: process 2, lines 4 to 5, :read nil -> ok 4
    operation 3: process 3, lines 6 to 7, :read nil -> ok 3",
    );
}

#[test]
fn a_vector_of_operations_with_an_initial_value_is_explained() {
    expect(
        "cas-register",
        Some("0"),
        CAS_VALID,
        0,
        "valid: 5 operations, model cas-register",
    );
    let (code, _) = check("cas-register", Some("7"), CAS_VALID, false);
    assert_eq!(code, 1, "nothing wrote the 0 that was read");
}

#[test]
fn keys_are_judged_apart_and_the_guilty_one_is_named() {
    expect(
        "cas-register",
        None,
        CAS_INVALID,
        1,
        "invalid: model cas-register, key :x
  operations 1 and 2 both replaced the same single value
  these 3 of 4 operations cannot be explained:
    operation 0: process 0, lines 1 to 2, :write [:x 1] -> ok [:x 1]
    operation 1: process 1, lines 3 to 5, :cas [:x [1 2]] -> ok [:x [1 2]]
    operation 2: process 2, lines 4 to 6, :cas [:x [1 3]] -> ok [:x [1 3]]",
    );
}

#[test]
fn half_a_transaction_seen_is_a_cycle_with_one_anti_dependency() {
    expect(
        "append",
        None,
        G_SINGLE,
        1,
        "invalid: model append
  G-single: a cycle of 2 transactions, by rw, wr
  these 2 of 3 operations cannot be explained:
    operation 0: process 0, lines 1 to 4, :txn [[:append :x 1] [:append :y 1]] -> ok \
         [[:append :x 1] [:append :y 1]]
    operation 1: process 1, lines 2 to 3, :txn [[:r :x nil] [:r :y nil]] -> ok \
         [[:r :x [1]] [:r :y nil]]",
    );
}

#[test]
fn json_carries_the_same_verdict() {
    let (code, output) = check("append", None, G_SINGLE, true);
    assert_eq!(code, 1);
    assert!(output.starts_with(
        "{\"verdict\":\"invalid\",\"model\":\"append\",\"operations\":3,\"succeeded\":3,\"dropped_bytes\":0,"
    ));
    assert!(output.contains("\"ending\":\"ok\",\"invoke_line\":1,\"complete_line\":4}"));
}

/// One operation a line: process, type, function and value, as in `history.txt`.
fn verdict(model: &str, lines: &[&str]) -> i32 {
    let text: String = lines
        .iter()
        .map(|line| line.replacen(' ', "\t", 3) + "\n")
        .collect();
    let (code, output) = check(model, None, text.as_bytes(), false);
    assert_ne!(code, 2, "{output}");
    code
}

#[test]
fn registers_counters_and_sets_tell_a_good_history_from_a_bad_one() {
    let write = ["0 :invoke :write 1", "0 :ok :write 1"];
    let read = |value: &str| format!("0 :ok :read {value}");
    let with = |model, first: &[&str], last: &str| {
        let all: Vec<&str> = first
            .iter()
            .copied()
            .chain(["0 :invoke :read nil", last])
            .collect();
        verdict(model, &all)
    };
    assert_eq!(with("register", &write, &read("1")), 0);
    assert_eq!(with("register", &write, &read("nil")), 1);
    let add = [
        "0 :invoke :add 2",
        "0 :ok :add 2",
        "1 :invoke :add 3",
        "1 :info :add 3",
    ];
    assert_eq!(with("counter", &add, &read("5")), 0);
    assert_eq!(with("counter", &add, &read("3")), 1);
    assert_eq!(with("set", &add, &read("#{2 3}")), 0);
    assert_eq!(with("set", &add, &read("#{3}")), 1);
}

#[test]
fn locks_queues_and_texts_tell_a_good_history_from_a_bad_one() {
    let locks = [
        "0 :invoke :acquire nil",
        "0 :ok :acquire nil",
        "1 :invoke :acquire nil",
    ];
    assert_eq!(verdict("mutex", &locks), 0);
    assert_eq!(
        verdict("mutex", &[&locks[..], &["1 :ok :acquire nil"]].concat()),
        1
    );
    let queue = [
        "0 :invoke :enqueue 1",
        "0 :ok :enqueue 1",
        "0 :invoke :enqueue 2",
        "0 :ok :enqueue 2",
        "1 :invoke :dequeue nil",
    ];
    assert_eq!(
        verdict("queue", &[&queue[..], &["1 :ok :dequeue 1"]].concat()),
        0
    );
    assert_eq!(
        verdict("queue", &[&queue[..], &["1 :ok :dequeue 2"]].concat()),
        1
    );
    let text = [
        "0 :invoke :append [:k \"a\"]",
        "0 :ok :append [:k \"a\"]",
        "1 :invoke :get [:k nil]",
    ];
    assert_eq!(
        verdict("kv", &[&text[..], &["1 :ok :get [:k \"a\"]"]].concat()),
        0
    );
    assert_eq!(
        verdict("kv", &[&text[..], &["1 :ok :get [:k \"\"]"]].concat()),
        1
    );
    let put = [
        "0 :invoke :put [:k 1]",
        "0 :ok :put [:k 1]",
        "1 :invoke :get [:k nil]",
    ];
    assert_eq!(
        verdict("kv", &[&put[..], &["1 :ok :get [:k 1]"]].concat()),
        0
    );
    assert_eq!(
        verdict("kv", &[&put[..], &["1 :ok :get [:k nil]"]].concat()),
        1
    );
}

#[test]
fn transactions_and_blocks_tell_a_good_history_from_a_bad_one() {
    let txn = [
        "0 :invoke :txn [[:w :x 1] [:w :y 1]]",
        "1 :invoke :txn [[:r :x nil] [:r :y nil]]",
    ];
    assert_eq!(
        verdict(
            "multi-register",
            &[&txn[..], &["1 :ok :txn [[:r :x 1] [:r :y 1]]"]].concat()
        ),
        0
    );
    assert_eq!(
        verdict(
            "multi-register",
            &[&txn[..], &["1 :ok :txn [[:r :x 1] [:r :y nil]]"]].concat()
        ),
        1
    );
    let own = [
        "0 :invoke :txn [[:r :x nil] [:w :x 1] [:r :x nil]]",
        "0 :ok :txn [[:r :x nil] [:w :x 1] [:r :x 1]]",
    ];
    assert_eq!(verdict("multi-register", &own), 0, "its own write");
    let block = [
        "0 :invoke :write [0 4 7]",
        "0 :ok :write [0 4 7]",
        "1 :invoke :zero [1 2]",
        "1 :info :zero [1 2]",
        "2 :invoke :read [0 3]",
    ];
    assert_eq!(
        verdict(
            "block",
            &[&block[..], &["2 :ok :read [0 3 [7 0 7]]"]].concat()
        ),
        0
    );
    assert_eq!(
        verdict(
            "block",
            &[&block[..], &["2 :ok :read [0 3 [0 7 7]]"]].concat()
        ),
        1
    );
}

#[test]
fn a_snapshot_is_one_moment_and_never_changes() {
    let history = |first: &str, second: &str| {
        let lines = [
            "0 :invoke :write [0 1 5]",
            "0 :ok :write [0 1 5]",
            "1 :invoke :snapshot :s",
            "1 :info :snapshot :s",
            "0 :invoke :write [1 1 6]",
            "0 :ok :write [1 1 6]",
            "2 :invoke :read-snapshot [:s 0 2]",
            first,
            "2 :invoke :read-snapshot [:s 0 2]",
            second,
        ];
        verdict("snapshot", &lines)
    };
    let read = |tags: &str| format!("2 :ok :read-snapshot [:s 0 2 {tags}]");
    assert_eq!(history(&read("[5 0]"), &read("[5 0]")), 0);
    assert_eq!(history(&read("[5 6]"), &read("[5 6]")), 0);
    assert_eq!(history(&read("[5 0]"), &read("[5 6]")), 1, "it changed");
    assert_eq!(history(&read("[0 6]"), &read("[0 6]")), 1, "no such moment");
}

#[test]
fn all_models_are_listed_and_unknown_ones_refused() {
    let call = b"0\t:invoke\t:none\t[1 2]\n";
    for name in Model::names() {
        let (code, output) = check(name, None, call, false);
        assert_eq!(code, 2, "{name}: {output}");
        assert!(output.contains("line 1: expected"), "{name}: {output}");
    }
    let (code, output) = check("regster", None, b"", false);
    assert_eq!(code, 2);
    assert!(output.contains("no model is called regster; there are register, cas-register"));
}

#[test]
fn a_history_of_nothing_says_so_and_is_no_pass_where_more_is_asked_for() {
    for text in ["", "[]", ":nemesis\t:info\t:start\tnil\n"] {
        for name in Model::names() {
            let (code, output) = check(name, None, text.as_bytes(), false);
            assert_eq!(code, 0, "{name}: {output}");
            assert!(output.contains("nothing was judged: no process with a number calls"));
            let asked = Asked {
                at_least: 1,
                ..Asked::default()
            };
            let (code, output) = check_as(asked, name, None, text.as_bytes(), false);
            assert_eq!(code, 3, "{name}: {output}");
            assert!(output.starts_with("unknown: 0 operations succeeded, 1 were asked for"));
        }
    }
}

#[test]
fn every_model_tells_independent_objects_apart() {
    let apart = |model: &str, good: &[&str], bad: &[&str]| {
        assert_eq!(verdict(model, good), 0, "{model}");
        assert_eq!(verdict(model, bad), 1, "{model}");
    };
    let append = "0 :invoke :txn [1 [[:append :x 7]]]";
    let appended = "0 :ok :txn [1 [[:append :x 7]]]";
    let other = "0 :invoke :txn [2 [[:r :x nil]]]";
    apart(
        "append",
        &[append, appended, other, "0 :ok :txn [2 [[:r :x []]]]"],
        &[append, appended, other, "0 :ok :txn [2 [[:r :x [7]]]]"],
    );
    let write = "0 :invoke :txn [1 [[:w :x 7]]]";
    let written = "0 :ok :txn [1 [[:w :x 7]]]";
    apart(
        "multi-register",
        &[write, written, other, "0 :ok :txn [2 [[:r :x nil]]]"],
        &[write, written, other, "0 :ok :txn [2 [[:r :x 7]]]"],
    );
    let write = "0 :invoke :write [:a [0 1 7]]";
    let written = "0 :ok :write [:a [0 1 7]]";
    let read = "0 :invoke :read [:b [0 1]]";
    for model in ["block", "snapshot"] {
        apart(
            model,
            &[write, written, read, "0 :ok :read [:b [0 1 [0]]]"],
            &[write, written, read, "0 :ok :read [:b [0 1 [7]]]"],
        );
    }
    let taken = "1 :invoke :snapshot [:a :s]";
    let seen = "1 :ok :snapshot [:a :s]";
    let read = "1 :invoke :read-snapshot [:b [:s 0 1]]";
    let found = "1 :ok :read-snapshot [:b [:s 0 1 [0]]]";
    let of_another = [write, written, taken, seen, read, found];
    assert_eq!(verdict("snapshot", &of_another), 1, "another disk's");
}

#[test]
fn keys_of_their_own_tell_every_object_apart() {
    let call = |kind: &str, key: u64, value: &str| {
        format!("{{:type :{kind} :process 0 :f :txn :key {key} :value {value}}}\n")
    };
    let code = |key, answered| {
        let text = [
            call("invoke", 1, "[[:append :x 7]]"),
            call("ok", 1, "[[:append :x 7]]"),
            call("invoke", key, "[[:r :x nil]]"),
            call("ok", answered, "[[:r :x []]]"),
        ];
        check("append", None, text.concat().as_bytes(), false)
    };
    assert_eq!(code(2, 2).0, 0);
    assert_eq!(code(1, 1).0, 1);
    let refused = "unusable: line 4: expected the key of line 3, 1, found 2\n";
    assert_eq!(code(1, 2), (2, refused.to_owned()));
}

#[test]
fn answers_to_other_questions_are_refused() {
    let refused = |model: &str, asked: &str, answered: &str| {
        let text = format!("0\t:invoke\t{asked}\n0\t:ok\t{answered}\n");
        let (code, output) = check(model, None, text.as_bytes(), false);
        assert_eq!(code, 2, "{output}");
        output.trim_end().to_owned()
    };
    assert_eq!(
        refused("register", ":read\t[1 nil]", ":read\t[2 5]"),
        "unusable: line 2: expected an answer [key value] with the key 1, found :read [2 5]"
    );
    assert_eq!(
        refused("block", ":read\t[0 2]", ":read\t[1 2 [0 0]]"),
        "unusable: line 2: expected [0 2 [tag ..]] with 2 tags, found :read [1 2 [0 0]]"
    );
    assert_eq!(
        refused("append", ":txn\t[[:append 1 7]]", ":txn\t[[:append 1 8]]"),
        "unusable: line 2: expected the transaction of line 1, found :txn [[:append 1 8]]"
    );
    let read = ":read-snapshot\t[:s 0 1]";
    let found = refused("snapshot", read, ":read-snapshot\t[:t 0 1 [0]]");
    assert!(
        found.contains("expected [:s 0 1 [tag ..]] with 1 tags"),
        "{found}"
    );
}

#[test]
fn an_initial_value_is_taken_or_refused() {
    let text = |call: &str, answer: &str| format!("0\t:invoke\t{call}\n0\t:ok\t{answer}\n");
    let judge = |model: &str, initial: &str, text: &str| {
        check(model, Some(initial), text.as_bytes(), false)
    };
    let read = text(":read\tnil", ":read\t3");
    assert_eq!(judge("counter", "3", &read).0, 0);
    assert_eq!(
        judge("counter", "\"3\"", &read).1,
        "unusable: the initial value: expected an integer, found \"3\"\n"
    );
    let lock = text(":acquire\tnil", ":acquire\tnil");
    assert_eq!(judge("mutex", "false", &lock).0, 0);
    assert_eq!(judge("mutex", "true", &lock).0, 1);
    assert_eq!(judge("mutex", ":locked", &lock).0, 2);
    let set = text(":read\tnil", ":read\t[1 2]");
    assert_eq!(judge("set", "#{1 2}", &set).0, 0);
    assert_eq!(judge("set", "7", &set).0, 2);
    let kv = text(":append\t[:k \"b\"]", ":append\t[:k \"b\"]");
    assert_eq!(judge("kv", "\"a\"", &kv).0, 0);
    assert_eq!(judge("kv", "7", &kv).0, 2);
    for (model, call) in [
        ("queue", ":enqueue\t1"),
        ("append", ":txn\t[[:append 1 1]]"),
        ("block", ":write\t[0 1 1]"),
        ("snapshot", ":write\t[0 1 1]"),
    ] {
        let (code, output) = judge(model, "nil", &text(call, call));
        assert_eq!(code, 2, "{model}");
        assert!(
            output.contains("the initial value: expected none"),
            "{output}"
        );
    }
}

#[test]
fn a_set_that_has_an_element_twice_is_none() {
    let lines = ["0 :invoke :add 1", "0 :ok :add 1", "0 :invoke :read nil"];
    let with = |last| verdict("set", &[&lines[..], &[last]].concat());
    assert_eq!(with("0 :ok :read [1]"), 0);
    assert_eq!(with("0 :ok :read [1 1]"), 1);
}

#[test]
fn unusable_histories_are_refused_with_their_line() {
    let refused = |model: &str, text: &str| {
        let (code, output) = check(model, None, text.as_bytes(), false);
        assert_eq!(code, 2, "{output}");
        output.trim_end().to_owned()
    };
    let invoke = "{:type :invoke :process 0 :f :write :value 1}\n";
    assert_eq!(
        refused("register", &format!("{invoke}\n{invoke}")),
        "unusable: line 3: expected the ending of process 0's call of line 1, found another \
         call, :write"
    );
    assert_eq!(
        refused("register", "{:type :ok :process 0 :f :write :value 1}"),
        "unusable: line 1: expected a call of process 0 before its ending, found :ok :write \
         without one"
    );
    assert_eq!(
        refused(
            "register",
            &format!("{invoke}{{:type :ok :process 0 :f :read}}")
        ),
        "unusable: line 2: expected the ending of :write of line 1, found :ok of :read"
    );
    assert_eq!(
        refused(
            "register",
            "\n{:type :invoke :process 0 :f :cas :value [1 2]}"
        ),
        "unusable: line 2: expected :read or :write, found :cas"
    );
    assert_eq!(
        refused("register", "INFO  jepsen.util - 0\t:begin\t:read\tnil"),
        "unusable: line 1: expected :invoke, :ok, :fail or :info, found :begin"
    );
    assert_eq!(
        refused("register", "[{:type :invoke :process 0\n :f :read"),
        "unusable: line 2: expected } for the bracket opened in line 1, found the end of the text"
    );
    let torn = b"HGHIST\x02\0";
    let (code, output) = check("register", None, torn, false);
    assert_eq!(code, 2);
    assert!(output.contains("the header of version 1"));
}

#[test]
fn a_writer_that_died_within_its_header_left_nothing() {
    for bytes in [&b"H"[..], b"HGHI", b"HGHIST\x01"] {
        let (code, output) = check("register", None, bytes, false);
        assert_eq!(code, 0, "{output}");
        let dropped = format!("dropped {} bytes of a torn last record", bytes.len());
        assert!(output.contains(&dropped), "{output}");
    }
}

/// The logger's name in a value or in the nemesis's prose does not make a log of `history.txt`, of which
/// every other line would be skipped; and a value is all that its column holds.
#[test]
fn what_is_no_log_is_read_line_by_line() {
    let lines = [
        "0\t:invoke\t:write\t1",
        "0\t:ok\t:write\t1",
        ":nemesis\t:info\t:start\tsee jepsen.util - :x\t:info\t:y\tz",
        "1\t:invoke\t:read\tnil",
        "1\t:ok\t:read\t99",
    ];
    let code = |lines: &[&str]| check("register", None, lines.join("\n").as_bytes(), false).0;
    assert_eq!(code(&lines), 1);
    let rest = ["0\t:invoke\t:write\t5 garbage", "0\t:ok\t:write\t5"];
    assert_eq!(code(&rest), 2);
}

#[test]
fn a_snapshot_read_before_it_was_taken_is_blamed_and_no_other_read() {
    let lines = [
        "0 :invoke :read-snapshot [1 5 1]",
        "0 :ok :read-snapshot [1 5 1 [0]]",
        "1 :invoke :snapshot 1",
        "1 :ok :snapshot 1",
        "2 :invoke :read-snapshot [1 3 1]",
        "2 :ok :read-snapshot [1 3 1 [0]]",
    ];
    assert_eq!(verdict("snapshot", &lines), 1);
    let text: String = lines.map(|l| l.replacen(' ', "\t", 3) + "\n").concat();
    let (_, output) = check("snapshot", None, text.as_bytes(), false);
    assert!(output.contains("these 2 of 3 operations"), "{output}");
    assert!(output.contains("lines 1 to 2"), "{output}");
}

#[test]
fn a_witness_with_a_snapshot_has_the_reads_that_it_needs_and_no_others() {
    let mut lines = vec!["9 :invoke :snapshot :s".to_owned()];
    lines.push("9 :ok :snapshot :s".to_owned());
    for block in 0..20 {
        let tag = if block == 7 { 5 } else { 0 };
        lines.push(format!("1 :invoke :read-snapshot [:s {block} 1]"));
        lines.push(format!("1 :ok :read-snapshot [:s {block} 1 [{tag}]]"));
    }
    let text: String = lines
        .iter()
        .map(|line| line.replacen(' ', "\t", 3) + "\n")
        .collect();
    let (code, output) = check("snapshot", None, text.as_bytes(), false);
    assert_eq!(code, 1);
    assert!(output.contains("these 2 of 21 operations"), "{output}");
    // Taken by the time at which the second read ended, before the write that the first one shows.
    let early = [
        "0 :invoke :snapshot :s",
        "0 :info :snapshot :s",
        "1 :invoke :read-snapshot [:s 0 1]",
        "2 :invoke :read-snapshot [:s 0 1]",
        "2 :ok :read-snapshot [:s 0 1 [7]]",
        "3 :invoke :write [0 1 7]",
        "3 :ok :write [0 1 7]",
        "1 :ok :read-snapshot [:s 0 1 [7]]",
    ];
    let text: String = early.map(|l| l.replacen(' ', "\t", 3) + "\n").concat();
    let (code, output) = check("snapshot", None, text.as_bytes(), false);
    assert_eq!(code, 1);
    assert!(
        output.contains("lines 4 to 5"),
        "the read that proves it: {output}"
    );
}

#[test]
fn a_snapshot_may_be_asked_for_again_when_nobody_knows_whether_it_was_taken() {
    let with = |tag: &str| {
        let last = format!("1 :ok :read-snapshot [:s 0 1 [{tag}]]");
        let lines = [
            "0 :invoke :snapshot :s",
            "0 :info :snapshot :s",
            "0 :invoke :write [0 1 7]",
            "0 :ok :write [0 1 7]",
            "0 :invoke :snapshot :s",
            "0 :ok :snapshot :s",
            "1 :invoke :read-snapshot [:s 0 1]",
            &last,
        ];
        verdict("snapshot", &lines)
    };
    assert_eq!((with("0"), with("7"), with("8")), (0, 0, 1));
}

#[test]
fn what_is_equal_in_clojure_is_equal() {
    let read = |written: &str, read: &str| {
        let write = format!("0 :invoke :write {written}");
        let wrote = format!("0 :ok :write {written}");
        let answer = format!("0 :ok :read {read}");
        verdict(
            "register",
            &[&write, &wrote, "0 :invoke :read nil", &answer],
        )
    };
    assert_eq!(read("(1 2)", "[1 2]"), 0);
    assert_eq!(read("0.0", "-0.0"), 0);
    assert_eq!(read("{:a (1)}", "{:a [1]}"), 0);
    assert_eq!(read("1", "1.0"), 1);
}

#[test]
fn odd_values_of_counters_and_queues_are_taken_as_they_are_or_refused() {
    let text = "0\t:invoke\t:decrement\t-9223372036854775808\n0\t:ok\t:decrement\tnil\n\
                0\t:invoke\t:read\tnil\n0\t:ok\t:read\t9223372036854775807\n";
    assert_eq!(check("counter", Some("-1"), text.as_bytes(), false).0, 0);
    let text = "0\t:invoke\t:enqueue\tnil\n";
    let (code, output) = check("queue", None, text.as_bytes(), false);
    assert_eq!(code, 2);
    assert!(output.contains("an element, which nil is not"), "{output}");
    let text = "0\t:invoke\t:txn\t[[:r :x nil]]\n0\t:ok\t:txn\t[[:r :x 0]]\n";
    assert_eq!(
        check("multi-register", Some("{:x 0}"), text.as_bytes(), false).0,
        0
    );
    let (code, output) = check("multi-register", Some("{x 0}"), text.as_bytes(), false);
    assert_eq!(code, 2);
    assert!(
        output.contains("keys of the history, such as {:x ..}"),
        "{output}"
    );
}

#[test]
fn values_that_look_like_keys_may_be_values() {
    let text = "0\t:invoke\t:write\t[1 2]\n0\t:ok\t:write\t[1 2]\n\
                0\t:invoke\t:cas\t[[1 2] [7 8]]\n0\t:ok\t:cas\t[[1 2] [7 8]]\n";
    let judged = |whose| {
        let asked = Asked {
            whose,
            ..Asked::default()
        };
        check_as(asked, "cas-register", None, text.as_bytes(), false).0
    };
    assert_eq!((judged(Objects::ByKey), judged(Objects::One)), (1, 0));
}

#[test]
fn too_much_to_compare_and_too_many_blocks_are_told() {
    let mut text = String::new();
    for call in 0..40 {
        text += &format!(
            "0\t:invoke\t:zero\t[{} 1048576]\n0\t:ok\t:zero\tnil\n",
            call << 20
        );
    }
    let (code, output) = check("block", None, text.as_bytes(), false);
    assert_eq!(code, 2);
    assert!(
        output.contains("line 65: expected at most 33554432 blocks"),
        "{output}"
    );
}
