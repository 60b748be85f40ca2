//! What is evaluated in processes of the server's own always ends, and spoils nothing but itself.

use std::path::Path;

use hooktrail::expression::{Expression, Pool, Scene};

use crate::scenario::HOOKTRAIL;

fn pool(folder: &Path) -> Pool {
    Pool::with_program(Path::new(HOOKTRAIL), folder, "test")
}

#[test]
fn an_expression_is_evaluated_by_a_process_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path());
    let scene = Scene { body: br#"{"a":1}"#, ..Scene::default() };
    let expression = Expression::new(".a + 1, $source").unwrap();
    let outputs = pool.outputs(1, &expression, &scene).unwrap();
    assert_eq!(outputs, [b"2".to_vec(), b"\"\"".to_vec()]);
}
