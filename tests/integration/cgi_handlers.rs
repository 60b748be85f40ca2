//! Handlers of `mode = "cgi"`: PHP scripts as vendors document them, run by php-cgi.

use base64::Engine;

use crate::support::server::{Scenario, Server, is_alive, scenario, stderr, stdout, until};
use crate::support::signature::hmac_sha256;

/// A receiver of JSON as vendors document it: the signature from `$_SERVER`, the body from
/// `php://input`, the status by `http_response_code`.
const JSON: &str = r#"<?php
const SECRET = 's3cret';

$payload = file_get_contents('php://input');
$theirs = $_SERVER['HTTP_X_SHOPIFY_HMAC_SHA256'] ?? '';
$ours = base64_encode(hash_hmac('sha256', $payload, SECRET, true));

if (!hash_equals($ours, $theirs)) {
    http_response_code(401);
    exit('not signed');
}

$order = json_decode($payload, true);
if ($order === null) {
    http_response_code(400);
    exit('no JSON');
}
header('Content-Type: application/json');
echo json_encode(['order' => $order['id'], 'topic' => $_SERVER['HTTP_X_SHOPIFY_TOPIC']]);
"#;

/// A receiver of forms as vendors document it: the signature is a form field.
const FORM: &str = r#"<?php
$signed = hash_hmac('sha256', $_POST['timestamp'] . $_POST['token'], 's3cret');
if (!hash_equals($signed, $_POST['signature'])) {
    header($_SERVER['SERVER_PROTOCOL'] . ' 406 Not Acceptable');
    exit;
}
$tags = implode('+', $_POST['tags']);
echo "$_POST[event] $_POST[recipient] $tags ", $_GET['list'] ?? '-', ' ', count($_FILES);
"#;

fn php(keys: &str, script: &str) -> Scenario {
    let scenario = scenario().source("a", "methods = [\"POST\", \"PUT\"]").raw_config(&format!(
        "[handlers.php]\nsources = [\"a\"]\nmode = \"cgi\"\ncommand = [\"php-cgi\", \"receiver.php\"]\n\
         retry = {{ max_attempts = 3 }}\n{keys}"
    ));
    scenario.write_file("receiver.php", script);
    scenario
}

/// Waits for the outcome of the newest event.
fn outcome(server: &Server) -> String {
    let newest = "from outcomes where event = (select max(event) from trail)";
    until("the newest event has an outcome", || {
        server.value(&format!("select count(*) {newest}")) == "1"
    });
    server.value(&format!("select outcome || ': ' || detail {newest}"))
}

#[test]
fn a_php_receiver_of_json_runs_unchanged() {
    let server = php("", JSON).start();
    let body = r#"{"id":820982911946154508,"note":"Zażółć"}"#;
    let signature = base64::engine::general_purpose::STANDARD.encode(hmac_sha256("s3cret", body));
    let signed = format!(
        "Content-Type: application/json\nX-Shopify-Topic: orders/create\n\
         X-Shopify-Hmac-SHA256: {signature}"
    );
    server.request("POST", "/hooks/a", &signed, body.as_bytes());
    let expected =
        r#"succeeded: status 200: {"order":820982911946154508,"topic":"orders\/create"}"#;
    assert_eq!(outcome(&server), expected);
    server.request("POST", "/hooks/a", &signed, b"{}");
    assert_eq!(outcome(&server), "failed: status 401: not signed");
}

#[test]
fn a_php_receiver_of_forms_runs_unchanged() {
    let server = php("", FORM).start();
    let signature = hex::encode(hmac_sha256("s3cret", "17950000000abc"));
    let form = "Content-Type: application/x-www-form-urlencoded";
    let body = format!(
        "timestamp=1795000000&token=0abc&signature={signature}&event=opened\
         &recipient=ada%40example.com&tags%5B%5D=a&tags%5B%5D=b+c"
    );
    server.request("POST", "/hooks/a?list=7", form, body.as_bytes());
    assert_eq!(outcome(&server), "succeeded: status 200: opened ada@example.com a+b c 7 0");
    server.request("POST", "/hooks/a", form, body.replace("0abc", "1abc").as_bytes());
    assert_eq!(outcome(&server), "failed: status 406");
    let fields = [
        ("timestamp", "1795000000"),
        ("token", "0abc"),
        ("signature", &signature),
        ("event", "opened"),
        ("recipient", "ada@example.com"),
        ("tags[]", "a"),
        ("file\"; filename=\"a.txt", "the file"),
    ];
    let mut parts: String = fields
        .map(|(name, value)| {
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        })
        .concat();
    parts.push_str("--b--\r\n");
    let multipart = "Content-Type: multipart/form-data; boundary=b";
    server.request("POST", "/hooks/a", multipart, parts.as_bytes());
    assert_eq!(outcome(&server), "succeeded: status 200: opened ada@example.com a - 1");
}

#[test]
fn php_finds_the_request_in_the_usual_variables() {
    let script = r#"<?php
        $names = ['REQUEST_METHOD', 'REQUEST_URI', 'QUERY_STRING', 'CONTENT_TYPE', 'REMOTE_ADDR',
            'PHP_SELF', 'HTTP_X_A', 'SERVER_NAME', 'HTTPS'];
        foreach ($names as $name) echo $_SERVER[$name] ?? '-', ' ';
        echo getenv('HOOKTRAIL_EVENT'), ' ', getenv('HTTP_PROXY') ?: '-', ' ';
        echo $_SERVER['SCRIPT_FILENAME'] === __FILE__ ? 'here' : 'elsewhere', ' ', getcwd() === __DIR__;"#;
    let server = php("", script).start();
    let headers = "Content-Type: text/plain\nX-A: 1\nX-A: 2\nProxy: http://127.0.0.1:1";
    server.request("PUT", "/hooks/a?b=%20&c", headers, b"x");
    let expected = "succeeded: status 200: PUT /hooks/a?b=%20&c b=%20&c text/plain 127.0.0.1 \
                    /hooks/a 1, 2 localhost - 1 - here 1";
    assert_eq!(outcome(&server), expected);
}

#[test]
fn no_query_adds_or_removes_arguments_of_php() {
    let script = "<?php echo ini_get('error_prepend_string'), ' ', json_encode($_GET), \
                  ' ', $argc ?? 'none';";
    let command = "command = [\"php-cgi\", \"-d\", \"error_prepend_string=set\", \"receiver.php\"]";
    let scenario = scenario().source("a", "").raw_config(&format!(
        "[handlers.php]\nsources = [\"a\"]\nmode = \"cgi\"\n{command}\nretry = {{ max_attempts = 1 }}"
    ));
    scenario.write_file("receiver.php", script);
    let server = scenario.start();
    for (query, get) in [
        ("-s", r#"{"-s":""}"#),
        ("-h", r#"{"-h":""}"#),
        ("-d+error_prepend_string%3Dtheirs", r#"{"-d_error_prepend_string=theirs":""}"#),
        ("%2Dn", r#"{"-n":""}"#),
        ("+-T+5", r#"{"-T_5":""}"#),
        ("a+b", r#"{"a_b":""}"#),
        ("a=-s", r#"{"a":"-s"}"#),
        ("", "[]"),
    ] {
        server.post(&format!("/hooks/a?{query}"), "x");
        assert_eq!(outcome(&server), format!("succeeded: status 200: set {get} none"), "{query}");
    }
}

#[test]
fn the_detail_names_the_error_of_a_php_script() {
    for (script, expected) in [
        ("<?php throw new Exception('boom');", "failed: exit 255: "),
        ("<?php nonsense( ;", "failed: exit 255: "),
        ("<?php http_response_code(503); header('Retry-After: 30');", "failed: status 503"),
        (
            "<?php http_response_code(500); error_log('no database');",
            "failed: status 500: no database",
        ),
        ("<?php header('Location: /thanks');", "failed: status 302: not followed to /thanks"),
        ("<?php exit(3);", "failed: exit 3"),
    ] {
        let server = php("", script).start();
        server.post("/hooks/a", "{}");
        let found = outcome(&server);
        assert!(found.starts_with(expected), "{script}: {found}");
    }
}

#[test]
fn status_410_makes_a_job_dead_and_retry_after_delays_its_retry() {
    let script = "<?php http_response_code($_GET['status']); header('Retry-After: 600');";
    let server = php("", script).start();
    server.post("/hooks/a?status=410", "{}");
    server.until("select detail from dead_jobs", "status 410");
    server.post("/hooks/a?status=429", "{}");
    server.until("select detail from outcomes where event = 2", "status 429");
    assert_eq!(server.value("select wait_ms from jobs where event = 2"), "600000");
}

#[test]
fn a_script_that_hangs_times_out_and_its_process_ends() {
    let script = "<?php file_put_contents('pid', getmypid()); stream_socket_accept(stream_socket_server('tcp://127.0.0.1:0'), -1);";
    let server = php("timeout = \"500ms\"", script).start();
    server.post("/hooks/a", "{}");
    assert_eq!(outcome(&server), "timed_out: timeout 500ms");
    assert!(!is_alive(&server.read_file("pid")));
}

#[test]
fn run_runs_a_cgi_script_in_the_foreground() {
    let server = php("", "<?php echo 'got ', file_get_contents('php://input');").start();
    server.post("/hooks/a", "body");
    assert_eq!(outcome(&server), "succeeded: status 200: got body");
    let run = server.cli(&["run", "php", "1"]);
    assert!(run.status.success() && stdout(&run).contains("got body"), "{}", stderr(&run));
}
