//! Finds the source of a path. Segments are compared after percent-decoding. A fixed segment takes
//! precedence over a named one (`{tenant}`). One trailing slash more or less makes no difference.

use std::borrow::Cow;

use foldhash::{HashMap, HashMapExt};
use percent_encoding::percent_decode_str;

use crate::config::Source;

enum Segment {
    Fixed(String),
    Named,
}

struct Pattern {
    source: usize,
    segments: Vec<Segment>,
    /// One more segment follows: the source's token.
    has_token: bool,
}

/// The paths of all sources.
pub struct Routes {
    /// Paths without names or tokens, as senders usually write them.
    fixed_paths: HashMap<String, usize>,
    /// Sorted so that earlier fixed segments take precedence.
    patterns: Vec<Pattern>,
}

/// The source that a path belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// Index of the source in the configuration.
    pub source: usize,
    /// The last segment of the path, decoded, if it is the token.
    pub secret_segment: Option<String>,
}

impl Routes {
    /// Builds the routes. A reload builds them again.
    pub fn new(sources: &[Source]) -> Self {
        let (mut fixed_paths, mut patterns) = (HashMap::new(), Vec::new());
        for (number, source) in sources.iter().enumerate() {
            let Some(path) = source.path().map(without_last_slash) else { continue };
            let segments: Vec<Segment> = path.split('/').skip(1).map(parse_segment).collect();
            let has_name = segments.iter().any(|segment| matches!(segment, Segment::Named));
            if !has_name && !source.verify.scheme.has_path_token() {
                fixed_paths.insert(path.to_owned(), number);
                fixed_paths.insert(format!("{path}/"), number);
            }
            // At the root there is no segment before the token.
            let segments = match source.verify.scheme.has_path_token() && path == "/" {
                true => Vec::new(),
                false => segments,
            };
            patterns.push(Pattern {
                source: number,
                segments,
                has_token: source.verify.scheme.has_path_token(),
            });
        }
        let rank = |pattern: &Pattern| -> Vec<bool> {
            let named = pattern.segments.iter().map(|segment| matches!(segment, Segment::Named));
            named.chain([pattern.has_token]).collect()
        };
        patterns.sort_by_key(rank);
        Self { fixed_paths, patterns }
    }

    /// Returns the source of a path as the client sent it.
    pub fn find(&self, path: &str) -> Option<RouteMatch> {
        if let Some(&source) = self.fixed_paths.get(path) {
            return Some(RouteMatch { source, secret_segment: None });
        }
        let segments: Vec<Cow<'_, str>> = without_last_slash(path)
            .strip_prefix('/')?
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy())
            .collect();
        self.patterns.iter().find_map(|pattern| pattern.match_path(&segments))
    }
}

/// Removes one trailing slash, except from the root.
fn without_last_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path)
}

fn parse_segment(text: &str) -> Segment {
    if text.starts_with('{') { Segment::Named } else { Segment::Fixed(text.to_owned()) }
}

impl Pattern {
    fn match_path(&self, sent: &[Cow<'_, str>]) -> Option<RouteMatch> {
        let (segments, token) = if self.has_token {
            let (token, segments) = sent.split_last()?;
            (segments, Some(token))
        } else {
            (sent, None)
        };
        let is_match = |(pattern, sent): (&Segment, &Cow<'_, str>)| match pattern {
            Segment::Fixed(fixed) => fixed == sent,
            Segment::Named => !sent.is_empty(),
        };
        let is_path_match = segments.len() == self.segments.len()
            && self.segments.iter().zip(segments).all(is_match);
        is_path_match.then(|| RouteMatch {
            source: self.source,
            secret_segment: token.map(|token| token.clone().into_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn routes(paths: &[&str]) -> Routes {
        let folder = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for (number, path) in paths.iter().enumerate() {
            text += &format!("[sources.s{number}]\npath = \"{path}\"\n");
            if path.ends_with("/t") || path.ends_with("/t/") {
                text += "verify = { scheme = \"token\", path_token = true, secret = { env = \"X\" } }\n";
            }
        }
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        Routes::new(&config::load(&file).unwrap().config.sources)
    }

    #[test]
    fn a_path_belongs_to_its_source_however_it_is_encoded() {
        let routes = routes(&["/a", "/{x}/b", "/c/b", "/t"]);
        let find = |path| routes.find(path).map(|route| (route.source, route.secret_segment));
        assert_eq!(find("/a"), Some((0, None)));
        assert_eq!(find("/%61"), Some((0, None)));
        assert_eq!(find("/c/b"), Some((2, None)));
        assert_eq!(find("/d%2Fe/b"), Some((1, None)));
        assert_eq!(find("/t/se%63ret"), Some((3, Some("secret".to_owned()))));
        for (path, source) in [("/a/", 0), ("/%61/", 0), ("/d/b/", 1), ("/c/b/", 2)] {
            assert_eq!(find(path), Some((source, None)), "{path}");
        }
        assert_eq!(find("/t/secret/"), Some((3, Some("secret".to_owned()))));
        for path in ["/", "", "/a//", "//a", "//b", "/t", "/t/", "/t/a/b", "/t/a//", "/A", "/a%2F"]
        {
            assert_eq!(find(path), None, "{path}");
        }
    }

    #[test]
    fn a_token_follows_a_path_that_ends_with_a_slash_without_another() {
        let routes = routes(&["/u/t/"]);
        let token = |path| routes.find(path).and_then(|route| route.secret_segment);
        assert_eq!(token("/u/t/secret"), Some("secret".to_owned()));
        assert_eq!(token("/u/t/secret/"), Some("secret".to_owned()));
        assert_eq!(token("/u/t//secret"), None);
    }
}
