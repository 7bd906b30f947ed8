//! Transcripts of answers that wait until everything begun before is settled.

use super::*;

#[test]
fn a_reset_and_a_second_login_wait_for_the_device_and_say_when_it_is_not_settled() {
    let mut talk = Talk::logged_in(&[]);
    talk.manage(5, 0);
    talk.check("> function 5\n < await 0 operations, 1 units");
    talk.give_up();
    talk.check("> not settled\n < function response 255");
    talk.manage(5, 0);
    talk.settle();
    talk.check(
        "> function 5
         < await 0 operations, 1 units
         > settled
         < function response 0",
    );

    let mut new = Talk::new((Arc::clone(&talk.targets), Arc::clone(&talk.disk)));
    let keys = [("InitiatorName", "iqn.x:me"), ("TargetName", TARGET)];
    new.login(1, Some(3), &keys);
    new.give_up();
    new.check(
        "> login
         < await 0 operations, 1 sessions, 1 units
         > not settled
         < login 0x0301 stage 1
         < close: login refused with status 0x0301: what the former session began is not settled yet",
    );
}

#[test]
fn a_second_login_of_the_same_port_waits_for_the_first_session_to_end() {
    let mut old = Talk::logged_in(&[]);
    old.write(1, 0, 1, 512, true);
    old.log.clear();
    let mut new = Talk::new((Arc::clone(&old.targets), Arc::clone(&old.disk)));
    new.login(
        1,
        Some(3),
        &[("InitiatorName", "iqn.x:me"), ("TargetName", TARGET)],
    );
    new.check("> login\n < await 0 operations, 1 sessions, 1 units");

    old.event(Event::Woken);
    old.event(Event::Disconnected);
    old.finish_operation();
    old.check(
        "< close: the initiator logged in anew
         < await 1 operations
         > operation done
         < ended",
    );
    new.settle();
    assert!(new.log.contains("login 0x0000 stage 3"), "{}", new.log);
}
