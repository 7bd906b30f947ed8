//! The rules that faults set for links and disks: which of them break anything, and making them plain.

use serde_json::Value;

use crate::scenario::Script;
use crate::world::{DiskArea, DiskFaults, FaultAction, LinkRules};

/// Takes every chance from an action; what it does for certain stays. True if it had any.
pub(super) fn without_rates(action: &mut FaultAction) -> bool {
    let action = action.deed_mut();
    let rates = match action {
        FaultAction::Link(_, _, rules) => vec![
            &mut rules.loss_ppm,
            &mut rules.duplicate_ppm,
            &mut rules.reorder_ppm,
            &mut rules.corrupt_ppm,
        ],
        FaultAction::Disk(_, faults) => vec![
            &mut faults.read_error_ppm,
            &mut faults.write_error_ppm,
            &mut faults.sync_error_ppm,
            &mut faults.phantom_write_ppm,
            &mut faults.misdirected_write_ppm,
            &mut faults.misplaced_write_ppm,
            &mut faults.stale_read_ppm,
            &mut faults.flip_on_read_ppm,
        ],
        _ => Vec::new(),
    };
    let mut had_some = false;
    for rate in rates {
        had_some |= *rate > 0;
        *rate = 0;
    }
    if let FaultAction::Link(_, _, rules) = action {
        // By how much messages were held back says nothing without any that are.
        rules.reorder_ns = 0;
        rules.duplicate_ns = 0;
    }
    if let FaultAction::Disk(_, faults) = action {
        // Nor does where calls would be struck.
        faults.area = DiskArea::default();
    }
    had_some
}

/// Whether any fault leaves something to chance.
pub(super) fn has_rates(script: &Script) -> bool {
    let plan = &script.plan;
    let mut faults = plan.formation.iter().chain(&plan.faults);
    faults.any(|fault| without_rates(&mut fault.action.clone()))
}

/// Where an action's rules stand in its serialised form, and what they are when nothing is wrong.
fn rules(action: &FaultAction) -> Option<(&'static str, Value)> {
    let stands = matches!(action, FaultAction::Begin(..));
    let (place, plain) = match (action.deed(), stands) {
        (FaultAction::Link(..), false) => ("/Link/2", serde_json::to_value(LinkRules::default())),
        (FaultAction::Disk(..), false) => ("/Disk/1", serde_json::to_value(DiskFaults::default())),
        (FaultAction::Link(..), true) => {
            let place = "/Begin/1/Link/2";
            (place, serde_json::to_value(LinkRules::default()))
        }
        (FaultAction::Disk(..), true) => {
            let place = "/Begin/1/Disk/1";
            (place, serde_json::to_value(DiskFaults::default()))
        }
        _ => return None,
    };
    Some((place, plain.expect("rules are plain data")))
}

/// The fields of an action's rules that break something.
pub(super) fn broken_fields(action: &FaultAction) -> Vec<String> {
    let Some((place, plain)) = rules(action) else {
        return Vec::new();
    };
    let whole = serde_json::to_value(action).expect("actions are plain data");
    let fields = whole.pointer(place).and_then(Value::as_object);
    let broken = fields
        .into_iter()
        .flatten()
        .filter(|(name, value)| plain.get(name.as_str()) != Some(value));
    broken.map(|(name, _)| name.clone()).collect()
}

/// Gives one field of an action's rules the value that breaks nothing.
pub(super) fn make_plain(action: &mut FaultAction, field: &str) {
    let Some((place, plain)) = rules(action) else {
        return;
    };
    let mut whole = serde_json::to_value(&*action).expect("actions are plain data");
    let Some(value) = whole
        .pointer_mut(place)
        .and_then(|rules| rules.get_mut(field))
    else {
        return;
    };
    *value = plain.get(field).cloned().unwrap_or_default();
    *action = serde_json::from_value(whole).expect("a plain field is as good as the one before");
}
