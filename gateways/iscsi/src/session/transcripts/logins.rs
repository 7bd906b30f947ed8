//! Transcripts of logins: who gets in, and who does not.

use super::*;

#[test]
fn login_negotiates_and_asks_for_nothing_more() {
    let mut talk = Talk::new(portal(None));
    let name = ("InitiatorName", "iqn.x:me");
    talk.login(
        0,
        Some(1),
        &[name, ("TargetName", TARGET), ("AuthMethod", "CHAP,None")],
    );
    talk.login(
        1,
        Some(3),
        &[("HeaderDigest", "CRC32C,None"), ("MaxBurstLength", "4096")],
    );
    talk.check(
        "> login
         < login 0x0000 stage 1 TargetPortalGroupTag=1 AuthMethod=None
         > login
         < login 0x0000 stage 3 HeaderDigest=CRC32C MaxBurstLength=4096 \
         MaxRecvDataSegmentLength=262144
         < digests true false",
    );
}

/// As libiscsi does that has a secret and meets a portal that asks for none.
#[test]
fn an_initiator_may_introduce_itself_in_each_stage() {
    let name = [("InitiatorName", "iqn.x:me"), ("SessionType", "Normal")];
    let first = [
        name[0],
        name[1],
        ("TargetName", TARGET),
        ("AuthMethod", "CHAP,None"),
    ];
    let again = [name[0], name[1], ("ImmediateData", "Yes")];
    let mut talk = Talk::new(portal(None));
    talk.login(0, Some(1), &first);
    talk.login(1, Some(3), &again);
    talk.cdb(1, &[0; 6], 0, &[]);
    assert!(!talk.log.contains("refused"), "{}", talk.log);
    for repeated in [("InitiatorName", "iqn.x:other"), ("ImmediateData", "Yes")] {
        let mut talk = Talk::new(portal(None));
        let offers = [first[0], first[2], first[3], ("ImmediateData", "Yes")];
        talk.login(0, None, &offers);
        talk.login(0, Some(1), &[repeated]);
        let expected = "login refused with status 0x0200: a key was negotiated twice";
        assert!(talk.log.contains(expected), "{repeated:?}: {}", talk.log);
    }
}

#[test]
fn a_guarded_target_admits_who_knows_the_secret() {
    let account = ChapAccount {
        user: "alice".to_owned(),
        secret: SECRET.to_vec(),
    };
    let guarded = || {
        Some(ChapCredentials {
            initiator: account.clone(),
            target: None,
        })
    };
    let name = [("InitiatorName", "iqn.x:me"), ("TargetName", TARGET)];
    let start = [name[0], name[1], ("AuthMethod", "CHAP")];

    let mut talk = Talk::new(portal(guarded()));
    talk.login(0, Some(1), &start);
    talk.login(0, None, &[("CHAP_A", "5")]);
    let right = text::hexadecimal_value(&chap::response(9, SECRET, &[9; 16]));
    talk.login(0, Some(1), &[("CHAP_N", "alice"), ("CHAP_R", &right)]);
    talk.check(
        "> login
         < login 0x0000 stage 0 TargetPortalGroupTag=1 AuthMethod=CHAP
         > login
         < login 0x0000 stage 0 CHAP_A=5 CHAP_I=9 CHAP_C=0x09090909090909090909090909090909
         > login
         < login 0x0000 stage 1",
    );

    let mut wrong = Talk::new(portal(guarded()));
    wrong.login(0, Some(1), &start);
    wrong.login(0, None, &[("CHAP_A", "5")]);
    wrong.log.clear();
    wrong.login(0, Some(1), &[("CHAP_N", "alice"), ("CHAP_R", "0x00")]);
    wrong.check(
        "> login
         < login 0x0201 stage 0
         < close: login refused with status 0x0201: wrong CHAP user or secret",
    );

    let mut around = Talk::new(portal(guarded()));
    around.login(1, Some(3), &name);
    around.check(
        "> login
         < login 0x0201 stage 1
         < close: login refused with status 0x0201: the target asks for CHAP",
    );
}

#[test]
fn logins_that_name_nobody_or_nothing_are_refused() {
    for (keys, status) in [
        (
            vec![("TargetName", TARGET)],
            "0x0207: InitiatorName is missing",
        ),
        (
            vec![("InitiatorName", "iqn.x:me")],
            "0x0207: TargetName is missing",
        ),
        (
            vec![("InitiatorName", "iqn.x:me"), ("TargetName", "iqn.none")],
            "0x0203: no such target",
        ),
    ] {
        let mut talk = Talk::new(portal(None));
        talk.login(1, Some(3), &keys);
        assert!(
            talk.log
                .contains(&format!("close: login refused with status {status}"))
        );
    }
}
