<?php
// Stores one submission of a form as one JSON file in the folder CONTACTS.
//
// The page reads its input as on any web server. Its HTTP status decides what happens to the job:
//   2xx        the job has succeeded
//   410        the job is dead: the same input would fail again
//   any other  the attempt has failed, and Hooktrail retries

// A warning belongs in the error log and not in the response. The log is stderr, stored with the attempt.
ini_set('display_errors', '0');
ini_set('log_errors', '1');

// The text is the job's detail in `hooktrail tail`. The visitor does not see it: Hooktrail responded
// to the browser before this page started.
function finish(int $status, string $detail): never
{
    http_response_code($status);
    header('Content-Type: text/plain; charset=utf-8');
    exit("$detail\n");
}

$type = $_SERVER['CONTENT_TYPE'] ?? '';
$form = str_starts_with($type, 'application/json')
    ? json_decode(file_get_contents('php://input'), true)
    : $_POST;
if (!is_array($form) || !filter_var($form['email'] ?? '', FILTER_VALIDATE_EMAIL)) {
    finish(410, 'no valid e-mail address');
}

// The idempotency key is the same for every attempt of a job. As the file's name, it makes a retry
// write the same file again instead of a second one.
$folder = getenv('CONTACTS');
$file = "$folder/" . getenv('HOOKTRAIL_IDEMPOTENCY_KEY') . '.json';
$flags = JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE;
$json = json_encode($form, $flags) . "\n";

// Written under another name and renamed, so that nobody reads half a file. After the 200 there is no
// other attempt, so the file must be on disk before it: hence fsync.
@mkdir($folder, 0750, true); // it is usually there; fopen fails if it is not
$stream = fopen("$file.new", 'wb');
$isWritten = $stream
    && fwrite($stream, $json) === strlen($json)
    && fsync($stream)
    && fclose($stream)
    && rename("$file.new", $file);
$isWritten ? finish(200, 'stored') : finish(503, "cannot write $file");
