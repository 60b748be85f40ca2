//! Which source a path belongs to: segments compared after percent-decoding, a fixed one wins over a
//! named one (`{tenant}`), and one slash more or less at the end makes no other path. Made anew at each reload; asked at each request.

use std::borrow::Cow;
use std::collections::HashMap;

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
    token: bool,
}

/// The paths of all sources.
pub struct Routes {
    /// Paths without names or tokens, as they are usually sent.
    plain: HashMap<String, usize>,
    /// Those with the earliest fixed segments first.
    patterns: Vec<Pattern>,
}

/// The source that a path belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its place among the sources.
    pub source: usize,
    /// The path's last segment, decoded, where it is the token.
    pub secret_segment: Option<String>,
}

impl Routes {
    pub fn new(sources: &[Source]) -> Self {
        let (mut plain, mut patterns) = (HashMap::new(), Vec::new());
        for (number, source) in sources.iter().enumerate() {
            let path = without_last_slash(&source.path);
            let segments: Vec<Segment> = path.split('/').skip(1).map(segment).collect();
            let named = segments.iter().any(|one| matches!(one, Segment::Named));
            if !named && !source.verify.is_path_token {
                plain.insert(path.to_owned(), number);
                plain.insert(format!("{path}/"), number);
            }
            // A token follows the path at the root, too, where nothing is before it.
            let segments = match source.verify.is_path_token && path == "/" {
                true => Vec::new(),
                false => segments,
            };
            patterns.push(Pattern { source: number, segments, token: source.verify.is_path_token });
        }
        let rank = |pattern: &Pattern| -> Vec<bool> {
            let named = pattern.segments.iter().map(|one| matches!(one, Segment::Named));
            named.chain([pattern.token]).collect()
        };
        patterns.sort_by_key(rank);
        Self { plain, patterns }
    }

    /// The source of a path as it was sent.
    pub fn find(&self, path: &str) -> Option<Match> {
        if let Some(&source) = self.plain.get(path) {
            return Some(Match { source, secret_segment: None });
        }
        let sent: Vec<Cow<'_, str>> = without_last_slash(path)
            .strip_prefix('/')?
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy())
            .collect();
        self.patterns.iter().find_map(|pattern| pattern.matched(&sent))
    }
}

/// One slash more or less at its end makes no other path.
fn without_last_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|bare| !bare.is_empty()).unwrap_or(path)
}

fn segment(text: &str) -> Segment {
    if text.starts_with('{') { Segment::Named } else { Segment::Fixed(text.to_owned()) }
}

impl Pattern {
    fn matched(&self, sent: &[Cow<'_, str>]) -> Option<Match> {
        let (own, token) = if self.token {
            let (token, own) = sent.split_last()?;
            (own, Some(token))
        } else {
            (sent, None)
        };
        let fits = |(pattern, sent): (&Segment, &Cow<'_, str>)| match pattern {
            Segment::Fixed(fixed) => fixed == sent,
            Segment::Named => !sent.is_empty(),
        };
        let all = own.len() == self.segments.len() && self.segments.iter().zip(own).all(fits);
        all.then(|| Match {
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
        let find = |path| routes.find(path).map(|found| (found.source, found.secret_segment));
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
        let token = |path| routes.find(path).and_then(|found| found.secret_segment);
        assert_eq!(token("/u/t/secret"), Some("secret".to_owned()));
        assert_eq!(token("/u/t/secret/"), Some("secret".to_owned()));
        assert_eq!(token("/u/t//secret"), None);
    }
}
