//! Whether a request is one of those that somebody asked for.

use crate::expose::wire::Filter;

/// What of a request decides.
#[derive(Debug, Default)]
pub(super) struct Asked<'a> {
    /// The request's target as it was sent.
    pub(super) target: &'a [u8],
    /// Names and values in the order in which they came.
    pub(super) headers: Vec<(&'a str, &'a [u8])>,
}

impl Asked<'_> {
    /// All that the filter wants is there.
    pub(super) fn matches(&self, filter: &Filter) -> bool {
        filter.headers.iter().all(|(name, value)| self.has(name, value.as_bytes()))
            && filter.path_prefix.as_ref().is_none_or(|prefix| self.path().starts_with(prefix.as_bytes()))
    }

    /// The kubelet's own requests (RFC 9110 10.1.5; `kube-probe/` and a version).
    pub(super) fn is_probe(&self) -> bool {
        self.has("user-agent", b"kube-probe/*")
    }

    fn has(&self, name: &str, wanted: &[u8]) -> bool {
        self.headers.iter().any(|(had, value)| {
            had.eq_ignore_ascii_case(name) && value_matches(value.trim_ascii(), wanted.trim_ascii())
        })
    }

    /// The target's path: RFC 9112 3.2 allows a whole URI in its place.
    fn path(&self) -> &[u8] {
        let target = self.target.split(|&byte| byte == b'?').next().unwrap_or_default();
        if target.starts_with(b"/") {
            return target;
        }
        let Some(scheme) = target.windows(3).position(|bytes| bytes == b"://") else { return &[] };
        let authority = target.get(scheme.saturating_add(3)..).unwrap_or_default();
        match authority.iter().position(|&byte| byte == b'/') {
            Some(at) => authority.get(at..).unwrap_or_default(),
            None => b"/",
        }
    }
}

/// A `*` at the value's end or beginning stands for anything; elsewhere it is itself.
fn value_matches(value: &[u8], wanted: &[u8]) -> bool {
    match (wanted.strip_prefix(b"*"), wanted.strip_suffix(b"*")) {
        (Some([]), _) => true,
        (Some(rest), Some(_)) => {
            let middle = rest.strip_suffix(b"*").unwrap_or(rest);
            value.windows(middle.len().max(1)).any(|bytes| bytes == middle) || middle.is_empty()
        }
        (Some(end), None) => value.ends_with(end),
        (None, Some(start)) => value.starts_with(start),
        (None, None) => value == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(target: &'a str, headers: &[(&'a str, &'a str)]) -> Asked<'a> {
        let headers = headers.iter().map(|&(name, value)| (name, value.as_bytes())).collect();
        Asked { target: target.as_bytes(), headers }
    }

    fn filter(headers: &[(&str, &str)], path_prefix: Option<&str>) -> Filter {
        let headers = headers.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        Filter { headers, path_prefix: path_prefix.map(Into::into) }
    }

    #[test]
    fn names_are_of_any_case_and_values_are_exact() {
        let request = asked("/", &[("X-User", "bob"), ("x-USER", " alice\t"), ("X-Env", "dev")]);
        assert!(request.matches(&filter(&[("x-user", "alice")], None)));
        assert!(request.matches(&filter(&[("X-USER", "bob"), ("x-env", "dev")], None)));
        assert!(!request.matches(&filter(&[("x-user", "alice"), ("x-env", "prod")], None)));
        assert!(!request.matches(&filter(&[("x-user", "Alice")], None)));
        assert!(!request.matches(&filter(&[("x-use", "alice")], None)));
    }

    #[test]
    fn a_star_stands_for_anything_at_either_end() {
        let matches = |value: &str, wanted: &str| value_matches(value.as_bytes(), wanted.as_bytes());
        assert!(matches("", "*") && matches("x", "*") && matches("x", "**"));
        assert!(matches("alice-1", "alice*") && matches("alice", "alice*") && !matches("alic", "alice*"));
        assert!(matches("my-alice", "*alice") && !matches("alice2", "*alice"));
        assert!(matches("my-alice-1", "*alice*") && !matches("my-alce-1", "*alice*"));
        assert!(matches("a*b", "a*b") && !matches("axb", "a*b"));
    }

    #[test]
    fn a_path_is_compared_without_host_and_query() {
        let wants = filter(&[], Some("/api/"));
        for (target, is) in [
            ("/api/", true),
            ("/api/x?y=/", true),
            ("/api", false),
            ("/v1?path=/api/", false),
            ("http://host:80/api/x", true),
            ("http://host", false),
            ("*", false),
            ("host:443", false),
        ] {
            assert_eq!(asked(target, &[]).matches(&wants), is, "{target}");
        }
        assert!(asked("http://host", &[]).matches(&filter(&[], Some("/"))));
    }

    #[test]
    fn the_kubelet_is_known_by_its_name() {
        assert!(asked("/", &[("user-agent", "kube-probe/1.34")]).is_probe());
        assert!(!asked("/", &[("user-agent", "curl/8 kube-probe/1.34")]).is_probe());
    }
}
