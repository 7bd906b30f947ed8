//! Negotiation of the operational keys (RFC 7143 section 13): our offers, and the results.
//!
//! Each key is answered once. Keys that the standard made obsolete (markers) are rejected, unknown
//! ones are not understood; neither ends a login.

use crate::codec::Digests;

/// Our MaxRecvDataSegmentLength in bytes: large enough that headers cost little.
pub(crate) const OUR_DATA_SEGMENT_BYTES: u32 = 256 << 10;

/// Our offer for MaxBurstLength in bytes.
const OUR_BURST_BYTES: u32 = 1 << 20;

/// Our offer for FirstBurstLength in bytes: what a command may bring unasked, for which memory must
/// be there whatever else goes on.
const OUR_FIRST_BURST_BYTES: u32 = 256 << 10;

/// Our offer for MaxOutstandingR2T.
const OUR_OUTSTANDING_R2T: u32 = 8;

/// The largest length of 24 bits.
const LENGTH_MAX: u32 = (1 << 24) - 1;

/// The smallest length that may be declared (RFC 7143 13.12).
const LENGTH_MIN: u32 = 512;

/// MaxRecvDataSegmentLength before anything was declared (RFC 7143 13.12).
pub(crate) const DEFAULT_DATA_SEGMENT_BYTES: u32 = 8192;

/// What was agreed; it begins with the defaults of the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) digests: Digests,
    /// The initiator's MaxRecvDataSegmentLength.
    pub(crate) peer_data_segment: u32,
    pub(crate) max_burst: u32,
    pub(crate) first_burst: u32,
    pub(crate) initial_r2t: bool,
    pub(crate) immediate_data: bool,
    pub(crate) outstanding_r2t: u32,
}

impl Default for Agreed {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            peer_data_segment: DEFAULT_DATA_SEGMENT_BYTES,
            max_burst: 262_144,
            first_burst: 65_536,
            initial_r2t: true,
            immediate_data: true,
            outstanding_r2t: 1,
        }
    }
}

/// How a key is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A declaration: no answer.
    Silence,
    /// The result.
    Value(String),
    /// Not admissible.
    Reject,
    /// Not a key that we know.
    NotUnderstood,
}

impl Answer {
    /// The value that goes out, if any.
    pub(crate) fn into_value(self) -> Option<String> {
        match self {
            Self::Silence => None,
            Self::Value(value) => Some(value),
            Self::Reject => Some("Reject".to_owned()),
            Self::NotUnderstood => Some("NotUnderstood".to_owned()),
        }
    }
}

fn number(value: &str) -> Option<u32> {
    let hexadecimal = value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn yes_or_no(value: bool) -> Answer {
    Answer::Value(if value { "Yes" } else { "No" }.to_owned())
}

/// The smaller of offer and `ours`, within the admissible range.
fn minimum(value: &str, range: std::ops::RangeInclusive<u32>, ours: u32) -> Option<u32> {
    number(value)
        .filter(|offer| range.contains(offer))
        .map(|offer| offer.min(ours))
}

impl Agreed {
    /// Takes one key of the initiator.
    pub(crate) fn negotiate(&mut self, key: &str, value: &str) -> Answer {
        match key {
            "HeaderDigest" => digest(value, &mut self.digests.header),
            "DataDigest" => digest(value, &mut self.digests.data),
            "MaxRecvDataSegmentLength" => {
                match number(value).filter(|length| (LENGTH_MIN..=LENGTH_MAX).contains(length)) {
                    Some(length) => {
                        self.peer_data_segment = length;
                        Answer::Silence
                    }
                    None => Answer::Reject,
                }
            }
            "MaxBurstLength" => length(value, OUR_BURST_BYTES, &mut self.max_burst),
            "FirstBurstLength" => length(value, OUR_FIRST_BURST_BYTES, &mut self.first_burst),
            "MaxOutstandingR2T" => match minimum(value, 1..=65_535, OUR_OUTSTANDING_R2T) {
                Some(count) => {
                    self.outstanding_r2t = count;
                    Answer::Value(count.to_string())
                }
                None => Answer::Reject,
            },
            "InitialR2T" => boolean(value).map_or(Answer::Reject, |offer| {
                self.initial_r2t = offer;
                yes_or_no(offer)
            }),
            "ImmediateData" => boolean(value).map_or(Answer::Reject, |offer| {
                self.immediate_data = offer;
                yes_or_no(offer)
            }),
            // Data always in order: the result of OR with our Yes.
            "DataPDUInOrder" | "DataSequenceInOrder" => {
                boolean(value).map_or(Answer::Reject, |_| yes_or_no(true))
            }
            "MaxConnections" => fixed(value, 1..=65_535, 1),
            "ErrorRecoveryLevel" => fixed(value, 0..=2, 0),
            "DefaultTime2Retain" => fixed(value, 0..=3600, 0),
            // The result is the larger one; we have no wish.
            "DefaultTime2Wait" => match number(value).filter(|seconds| *seconds <= 3600) {
                Some(seconds) => Answer::Value(seconds.to_string()),
                None => Answer::Reject,
            },
            "TaskReporting" => {
                let known = value.split(',').any(|offer| offer == "RFC3720");
                if known {
                    Answer::Value("RFC3720".to_owned())
                } else {
                    Answer::Reject
                }
            }
            // RFC 7144: level 1 is RFC 7143 itself.
            "iSCSIProtocolLevel" => fixed(value, 0..=31, 1),
            "OFMarker" | "IFMarker" | "OFMarkInt" | "IFMarkInt" => Answer::Reject,
            "InitiatorAlias" | "InitiatorName" | "SessionType" | "TargetName" => Answer::Silence,
            _ => Answer::NotUnderstood,
        }
    }
}

/// The first digest of the initiator's list that we have.
fn digest(value: &str, on: &mut bool) -> Answer {
    let first = value
        .split(',')
        .find(|offer| matches!(*offer, "CRC32C" | "None"));
    match first {
        Some(choice) => {
            *on = choice == "CRC32C";
            Answer::Value(choice.to_owned())
        }
        None => Answer::Reject,
    }
}

fn length(value: &str, ours: u32, agreed: &mut u32) -> Answer {
    match minimum(value, LENGTH_MIN..=LENGTH_MAX, ours) {
        Some(length) => {
            *agreed = length;
            Answer::Value(length.to_string())
        }
        None => Answer::Reject,
    }
}

/// A key whose result is the smaller value and where ours is the smallest or nearly so.
fn fixed(value: &str, range: std::ops::RangeInclusive<u32>, ours: u32) -> Answer {
    minimum(value, range, ours).map_or(Answer::Reject, |result| Answer::Value(result.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_rule() {
        let mut agreed = Agreed::default();
        for (key, offer, answer) in [
            ("HeaderDigest", "CRC32C,None", Some("CRC32C")),
            ("DataDigest", "X-other,None", Some("None")),
            ("DataDigest", "X-other", Some("Reject")),
            ("MaxRecvDataSegmentLength", "262144", None),
            ("MaxRecvDataSegmentLength", "511", Some("Reject")),
            ("MaxBurstLength", "16776192", Some("1048576")),
            ("FirstBurstLength", "0x10000", Some("65536")),
            ("InitialR2T", "No", Some("No")),
            ("ImmediateData", "Maybe", Some("Reject")),
            ("MaxOutstandingR2T", "1", Some("1")),
            ("MaxOutstandingR2T", "0", Some("Reject")),
            ("MaxConnections", "8", Some("1")),
            ("ErrorRecoveryLevel", "2", Some("0")),
            ("DefaultTime2Wait", "2", Some("2")),
            ("DefaultTime2Retain", "20", Some("0")),
            ("DataPDUInOrder", "No", Some("Yes")),
            ("IFMarker", "No", Some("Reject")),
            ("X-com.example.new", "1", Some("NotUnderstood")),
        ] {
            let got = agreed.negotiate(key, offer).into_value();
            assert_eq!(got.as_deref(), answer, "{key}={offer}");
        }
        assert!(agreed.digests.header && !agreed.digests.data && !agreed.initial_r2t);
        assert_eq!(
            (agreed.peer_data_segment, agreed.first_burst),
            (262_144, 65_536)
        );
    }
}
