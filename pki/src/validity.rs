use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

/// From when until when a certificate is valid (RFC 5280 §4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first moment.
    pub begin: SystemTime,
    /// Its last.
    pub end: SystemTime,
}

impl Validity {
    /// The validity of the first certificate in PEM text; `None` where there is none.
    pub fn of_pem(certificate_pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let at = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).ok()?;
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        };
        let validity = certificate.validity();
        Some(Self {
            begin: at(validity.not_before)?,
            end: at(validity.not_after)?,
        })
    }

    /// How long the certificate need not be renewed yet: until less than a third of its time is left.
    /// Zero when that is so.
    pub fn renewal_in(&self, now: SystemTime) -> Duration {
        let lifetime = self.end.duration_since(self.begin).unwrap_or_default();
        let due = self.end.checked_sub(lifetime / 3).unwrap_or(self.begin);
        due.duration_since(now).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Subject, Usage};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn certificate_is_due_when_less_than_a_third_of_its_time_is_left() {
        let day = |number: u32| SystemTime::UNIX_EPOCH + 20_000 * DAY + number * DAY;
        let year = Validity {
            begin: day(0),
            end: day(360),
        };
        for (now, expected) in [
            // A clock that is behind its authority's.
            (day(0) - DAY, 241 * DAY),
            (day(0), 240 * DAY),
            (day(239), DAY),
            (day(240), Duration::ZERO),
            (day(300), Duration::ZERO),
            (day(361), Duration::ZERO),
        ] {
            assert_eq!(year.renewal_in(now), expected, "{now:?}");
        }
        let reversed = Validity {
            begin: day(2),
            end: day(1),
        };
        assert_eq!(reversed.renewal_in(day(1)), Duration::ZERO);
    }

    #[test]
    fn validity_is_read_from_a_chain_and_from_nothing_else() {
        let authority = Authority::generate("test").unwrap();
        let leaf = authority.issue(&Subject::default(), Usage::Client).unwrap();
        let validity = Validity::of_pem(&leaf.certificate_pem).unwrap();
        let left = validity.end.duration_since(SystemTime::now()).unwrap();
        assert!(364 * DAY < left && left <= 365 * DAY, "{left:?}");
        assert_eq!(Validity::of_pem(&leaf.key_pem), None);
    }
}
