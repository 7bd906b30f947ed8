//! Where a node stands, read from its fully qualified name: `node.rack.dc.domain...`.

use hedgerow_protocol::Location;

/// The location that `name` tells: the second label is the rack, the third the data centre. A name
/// with fewer labels tells less: what is missing is empty, which is one rack or data centre of its
/// own.
#[must_use]
pub fn location_of_name(name: &str) -> Location {
    let mut labels = name.trim_end_matches('.').split('.').skip(1);
    let rack = labels.next().unwrap_or_default();
    let data_centre = labels.next().unwrap_or_default();
    Location {
        data_centre: data_centre.to_ascii_lowercase(),
        rack: rack.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_rack_and_data_centre_as_far_as_it_goes() {
        for (name, rack, data_centre) in [
            ("node7.rack3.ams1.example.com", "rack3", "ams1"),
            ("node7.Rack3.AMS1.", "rack3", "ams1"),
            ("node7.rack3", "rack3", ""),
            ("localhost", "", ""),
            ("", "", ""),
        ] {
            let location = location_of_name(name);
            assert_eq!(location.rack, rack, "{name}");
            assert_eq!(location.data_centre, data_centre, "{name}");
        }
    }
}
