//! The labels of a stream's series: a beginning that all streams of a producer or consumer share, and a
//! short end of its own that lies within, so that 100,000 streams need no text each.

use std::sync::Arc;

use arrayvec::ArrayString;

use crate::state::StreamRole;

/// Labels from the opening brace to the space before the value. Equal are those that read the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamLabels {
    /// `{transport_id="…",id="…"`
    object: Arc<str>,
    /// `,ssrc="…",role="…"} `
    own: ArrayString<LONGEST>,
}

const LONGEST: usize = r#",ssrc="4294967295",role="probation"} "#.len();

impl StreamLabels {
    pub(crate) fn new(object: Arc<str>, ssrc: u32, role: Option<StreamRole>) -> Self {
        let role = match role {
            None => "",
            Some(StreamRole::Media) => "media",
            Some(StreamRole::Rtx) => "rtx",
            Some(StreamRole::Probation) => "probation",
        };
        let mut own = ArrayString::new();
        for part in [r#",ssrc=""#, itoa::Buffer::new().format(ssrc), r#"",role=""#, role, "\"} "] {
            own.push_str(part);
        }
        Self { object, own }
    }

    /// What all streams of a producer or consumer have.
    pub(crate) fn object(&self) -> &Arc<str> {
        &self.object
    }

    /// The text, in parts.
    pub(crate) fn parts(&self) -> [&str; 2] {
        [&self.object, &self.own]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_and_role_has_room() {
        let roles = [StreamRole::Media, StreamRole::Rtx, StreamRole::Probation].map(Some);
        for role in roles.into_iter().chain([None]) {
            StreamLabels::new("{".into(), u32::MAX, role);
        }
        let labels = StreamLabels::new(r#"{id="a""#.into(), 7, Some(StreamRole::Rtx));
        assert_eq!(labels.parts().concat(), r#"{id="a",ssrc="7",role="rtx"} "#);
    }
}
