//! Tests that everything in the manual of jq 1.7 works as described there, except for forbidden
//! names and the documented differences between jaq and jq.

use super::check;

/// Expression, input, outputs.
type BuiltinCase = (&'static str, &'static str, &'static str);

#[track_caller]
fn check_all(cases: &[BuiltinCase]) {
    for (text, body, expected) in cases {
        check(text, body, expected);
    }
}

#[test]
fn basic_filters_work() {
    check_all(&[
        (".a.b, .\"a\", .a?, .a[\"b\"]", r#"{"a":{"b":1}}"#, r#"1 {"b":1} {"b":1} 1"#),
        (".[2:4], .[:1], .[-2:], .[1], .[-1]", "[1,2,3,4]", "[3,4] [1] [3,4] 2 4"),
        ("[.[]?], [..]", "[[1]]", "[[1]] [[[1]],[1],1]"),
        (
            "{a, \"b\": 2, (.a): 3, @base64 \"x\": 4}",
            r#"{"a":"k"}"#,
            r#"{"a":"k","b":2,"k":3,"x":4}"#,
        ),
        ("{(\"a\", \"b\"): 1}", "null", r#"{"a":1} {"b":1}"#),
        (". as {a: $x, $b} | [$x, $b]", r#"{"a":1,"b":2}"#, "[1,2]"),
        (". as [$a, [$b]] | $a + $b", "[1,[2]]", "3"),
        ("\"a\\(.)b\\u00fc\"", "1", "\"a1b\u{fc}\""),
        ("1 + 2, 3 - 1, 2 * 3, 10 / 4, 7 % 4", "null", "3 2 6 2.5 3"),
        ("[1,2] - [2], {a:1} + {b:2}, null + 1", "null", r#"[1] {"a":1,"b":2} 1"#),
        ("{k:{a:1,b:2}} * {k:{a:0,c:3}}", "null", r#"{"k":{"a":0,"b":2,"c":3}}"#),
        ("\"x\" * 3, (\"a, b\" / \", \")", "null", r#""xxx" ["a","b"]"#),
        (
            "1 == 1.0, \"a\" < \"b\", [1] < [2], {} > [], null < false",
            "null",
            "true true true true true",
        ),
        ("true and false, (false or true), (null | not)", "null", "false true true"),
        (".a // 1, (empty // 2), ((false, null, 3) // 4)", "{}", "1 2 3"),
    ]);
}

#[test]
fn control_structures_work() {
    check_all(&[
        ("if . then 1 elif 2 then 3 else 4 end, if . then 5 end", "null", "3 null"),
        ("try error(\"x\") catch ., (error(\"y\"))?, (try error catch .)", "1", r#""x" 1"#),
        ("[.[] | try tonumber catch \"no\"]", r#"["1","b"]"#, r#"[1,"no"]"#),
        ("reduce .[] as $x (0; . + $x)", "[1,2]", "3"),
        (
            "[foreach .[] as $x (0; . + $x)], [foreach .[] as $x (0; . + $x; [$x, .])]",
            "[1,2]",
            "[1,3] [[1,1],[2,3]]",
        ),
        ("label $out | 1, break $out, 2", "null", "1"),
        ("def f($x; g): $x + g; f(1; 2), (def r: if . < 3 then . + 1 | r end; r)", "0", "3 3"),
        (
            "[limit(2; .[])], first(.[]), last(.[]), nth(1; .[]), [skip(1; .[])]",
            "[1,2,3]",
            "[1,2] 1 3 2 [2,3]",
        ),
        ("first, last, nth(1)", "[1,2,3]", "1 3 2"),
        ("[range(3)], [range(1; 3)], [range(0; 10; 4)]", "null", "[0,1,2] [1,2] [0,4,8]"),
        (
            "[while(. < 4; . + 1)], until(. > 4; . + 1), [limit(3; repeat(. * 2))]",
            "2",
            "[2,3] 5 [2,4,8]",
        ),
        (
            "[recurse(if . < 2 then . + 1 else empty end)], [recurse(. + 1; . < 2)], [recurse]",
            "0",
            "[0,1,2] [0,1] [0]",
        ),
        (
            "isempty(empty), isempty(1), isvalid(.a), isvalid(error)",
            "null",
            "true false true false",
        ),
        (
            "any, all, any(. == 1), all(. == 1), any(.[]; . == 1), all(.[]; . == 1)",
            "[1,false]",
            "true false true false true false",
        ),
        ("getpath([\"a\",\"b\"]), getpath([])", "null", "null null"),
    ]);
}

#[test]
fn array_and_object_functions_work() {
    check_all(&[
        (
            "length, keys, keys_unsorted, has(\"a\"), has(\"c\")",
            r#"{"b":1,"a":2}"#,
            r#"2 ["a","b"] ["b","a"] true false"#,
        ),
        (
            "to_entries, with_entries(.value += 1), map_values(. + 1)",
            r#"{"a":1}"#,
            r#"[{"key":"a","value":1}] {"a":2} {"a":2}"#,
        ),
        (
            "from_entries",
            r#"[{"key":"a","value":1},{"key":"b","value":false}]"#,
            r#"{"a":1,"b":false}"#,
        ),
        (
            "map(. * 2), add, add(.[]), del(.a), pick(.a), map_values(empty)",
            r#"{"a":1,"b":2}"#,
            r#"[2,4] 3 3 {"b":2} {"a":1} {}"#,
        ),
        (
            "sort, unique, reverse, min, max, group_by(. % 2)",
            "[3,1,2,1]",
            "[1,1,2,3] [1,2,3] [1,2,1,3] 1 3 [[2],[3,1,1]]",
        ),
        (
            "sort_by(.a), unique_by(.b), min_by(.a), max_by(.a)",
            r#"[{"a":2,"b":1},{"a":1,"b":1}]"#,
            r#"[{"a":1,"b":1},{"a":2,"b":1}] [{"a":2,"b":1}] {"a":1,"b":1} {"a":2,"b":1}"#,
        ),
        ("index(1), rindex(1), indices(1), indices([1,2])", "[3,1,2,1]", "1 3 [1,3] [1]"),
        ("index(\"b\"), rindex(\"b\"), indices(\"b\")", r#""abab""#, "1 3 [1,3]"),
        ("contains([1]), inside([1,2,3]), bsearch(2), bsearch(4)", "[1,2,3]", "true true 1 -4"),
        ("contains(\"b\"), inside(\"abc\"), in({\"ab\": 1})", r#""ab""#, "true true true"),
        ("[combinations]", "[[1,2],[3]]", "[[1,3],[2,3]]"),
        ("[combinations(2)]", "[0,1]", "[[0,0],[0,1],[1,0],[1,1]]"),
        (
            "transpose, flatten, flatten(1), walk(if type == \"array\" then sort end)",
            "[[2,1],[3]]",
            "[[2,3],[1,null]] [2,1,3] [2,1,3] [[1,2],[3]]",
        ),
        ("toarray, (.[0] | toarray)", "[1]", "[1] [1]"),
        (
            "[paths], [paths(type == \"number\")], [leaf_paths], getpath([\"a\",0])",
            r#"{"a":[1]}"#,
            r#"[["a"],["a",0]] [["a",0]] [["a",0]] 1"#,
        ),
        (
            "delpaths([[\"a\",0]]), [path(..)], [path(.a[0])]",
            r#"{"a":[1]}"#,
            r#"{"a":[]} [[],["a"],["a",0]] [["a",0]]"#,
        ),
        (
            ".a = 9, (.a |= . + 1), .a += 1, .a -= 1, .a *= 2, .a %= 3, .b //= 3",
            r#"{"a":4}"#,
            r#"{"a":9} {"a":5} {"a":5} {"a":3} {"a":8} {"a":1} {"a":4,"b":3}"#,
        ),
        (
            "del(.[0,2]), (.[1:] = [9]), map(select(. > 1)), (.[0] |= empty), del(.[5]), del(.[1:])",
            "[1,2,3]",
            "[2] [1,9] [2,3] [2,3] [1,2,3] [1]",
        ),
        (
            "setpath([\"a\",\"b\"]; 1), setpath([\"c\",1]; 2), setpath([]; 3)",
            r#"{"a":{}}"#,
            r#"{"a":{"b":1}} {"a":{},"c":[null,2]} 3"#,
        ),
        ("setpath([\"x\"]; 4), setpath([0,\"x\"]; 4)", "null", r#"{"x":4} [{"x":4}]"#),
        ("IN(1, 2), IN(.; 1), (3 | IN(1, 2))", "2", "true false false"),
        (
            "INDEX(.id), INDEX(.[]; .id)",
            r#"[{"id":1},{"id":"x"}]"#,
            r#"{"1":{"id":1},"x":{"id":"x"}} {"1":{"id":1},"x":{"id":"x"}}"#,
        ),
        (
            "[tostream]",
            r#"{"a":[1,{"b":2}]}"#,
            r#"[[["a",0],1],[["a",1,"b"],2],[["a",1,"b"]],[["a",1]],[["a"]]]"#,
        ),
        ("fromstream(tostream)", r#"{"a":[1,{"b":2}],"c":[]}"#, r#"{"a":[1,{"b":2}],"c":[]}"#),
        ("[1 | truncate_stream([[0],1],[[1,0],2],[[1,0]],[[1]])]", "null", "[[[0],2],[[0]]]"),
        ("[recurse_down], [limit(1; recurse_down)]", "[1]", "[[1],1] [[1]]"),
        ("[splits(\"a\")], [.[0:1]]", r#""bab""#, r#"["b","b"] ["b"]"#),
    ]);
}

#[test]
fn types_and_conversions_work() {
    check_all(&[
        (
            "map(type)",
            r#"[null,true,1,"a",[],{}]"#,
            r#"["null","boolean","number","string","array","object"]"#,
        ),
        (
            "[.[] | arrays], [.[] | objects], [.[] | iterables], [.[] | booleans]",
            r#"[null,true,1,"a",[],{}]"#,
            "[[]] [{}] [[],{}] [true]",
        ),
        (
            "[.[] | numbers], [.[] | strings], [.[] | nulls], [.[] | values], [.[] | scalars]",
            r#"[null,true,1,"a"]"#,
            r#"[1] ["a"] [null] [true,1,"a"] [null,true,1,"a"]"#,
        ),
        ("[.[] | normals], [.[] | finites]", "[0,1]", "[1] [0,1]"),
        (
            "tojson, (tojson | fromjson), tostring",
            r#"{"a":1.10}"#,
            r#""{\"a\":1.10}" {"a":1.10} "{\"a\":1.10}""#,
        ),
        ("tonumber, (tonumber | tonumber)", r#""1.50""#, "1.50 1.50"),
        ("tostring, tojson", r#""a""#, r#""a" "\"a\"""#),
        ("ascii, ([.] | implode), (. | tostring | explode)", "65", r#""A" "A" [54,53]"#),
        (
            "ascii_downcase, ascii_upcase, length, utf8bytelength",
            "\"a\u{fc}B\"",
            "\"a\u{fc}b\" \"A\u{fc}B\" 3 4",
        ),
        (
            "ltrimstr(\"a\"), rtrimstr(\"c\"), trimstr(\"x\"), startswith(\"a\"), endswith(\"b\")",
            r#""abc""#,
            r#""bc" "ab" "abc" true false"#,
        ),
        ("trim, ltrim, rtrim, trimstr(\" \")", r#"" a ""#, r#""a" "a " " a" "a""#),
        (
            "join(\", \"), (map(tostring) | join(\"\"))",
            r#"["a",1,null]"#,
            r#""a, 1, null" "a1null""#,
        ),
        ("split(\", \"), split(\", *\"; null)?", r#""a, b""#, r#"["a","b"] ["a","b"]"#),
        (
            "ltrimstr(\"a\"), rtrimstr(\"a\"), (\"a\" | ltrimstr(1), rtrimstr(\"\"))",
            "1",
            r#"1 1 "a" "a""#,
        ),
        ("have_literal_numbers, have_decnum, (\"[1]\" | fromjson)", "null", "true false [1]"),
    ]);
}

#[test]
fn regular_expressions_work() {
    check_all(&[
        (
            "test(\"B\"; \"i\"), test(\"x\"), [match(\"(?<n>b)\") | .offset, .captures[0].name]",
            r#""abc""#,
            r#"true false [1,"n"]"#,
        ),
        (
            "capture(\"(?<n>b)\"), [scan(\"[a-c]\")], [scan(\"(a)(b)\")], [scan(\"B\"; \"i\")]",
            r#""abc""#,
            r#"{"n":"b"} ["a","b","c"] [["a","b"]] ["b"]"#,
        ),
        (
            "sub(\"b\"; \"x\"), gsub(\"[ac]\"; \"-\"), sub(\"(?<x>b)\"; \"\\(.x)!\"), gsub(\"B\"; \"\"; \"i\")",
            r#""abc""#,
            r#""axc" "-b-" "ab!c" "ac""#,
        ),
        (
            "split(\"B\"; \"i\"), [splits(\"b\")], [splits(\"B\"; \"i\")]",
            r#""abc""#,
            r#"["a","c"] ["a","c"] ["a","c"]"#,
        ),
        ("[match(\"a\"; \"g\") | .offset], ascii_downcase", r#""aba""#, r#"[0,2] "aba""#),
    ]);
}

#[test]
fn formats_work() {
    check_all(&[
        (
            "@text, @json, @html, @uri, @sh",
            r#""a<b' &""#,
            r#""a<b' &" "\"a<b' &\"" "a&lt;b&apos; &amp;" "a%3Cb%27%20%26" "'a<b'\\'' &'""#,
        ),
        ("@base64, (@base64 | @base64d)", "\"w\u{fc}\"", "\"d8O8\" \"w\u{fc}\""),
        (
            "@base32, (@base32 | @base32d)",
            "\"This is \u{fc}\"",
            "\"KRUGS4ZANFZSBQ54\" \"This is \u{fc}\"",
        ),
        (
            "[.[] | @base32]",
            r#"["","a","ab","abc","abcd","abcde"]"#,
            r#"["","ME======","MFRA====","MFRGG===","MFRGGZA=","MFRGGZDF"]"#,
        ),
        (
            "[.[] | @base32 | @base32d]",
            r#"["","a","ab","abc","abcd","abcde"]"#,
            r#"["","a","ab","abc","abcd","abcde"]"#,
        ),
        (
            "@csv, @tsv",
            r#"["a\"b\t",1.50,null,true]"#,
            r#""\"a\"\"b\t\",1.50,,true" "a\"b\\t\t1.50\t\ttrue""#,
        ),
        (
            "@json \"x\\(.)\", @uri \"?q=\\(.[0])\", @sh \"echo \\(.)\", @csv \"\\([1])\"",
            r#"["a b"]"#,
            r#""x[\"a b\"]" "?q=a%20b" "echo 'a b'" "1""#,
        ),
        ("@urid, @base32d?", r#""a%20b""#, r#""a b""#),
    ]);
}

#[test]
fn mathematical_functions_work() {
    check_all(&[
        ("floor, ceil, round, trunc, nearbyint, fabs, abs", "-1.5", "-2 -1 -2 -1.0 -2.0 1.5 1.5"),
        (
            "sqrt, cbrt, exp2, exp10, log2, pow(.; 2), significand, logb",
            "4",
            "2.0 1.5874010519681996 16.0 10000.0 2.0 16.0 1.0 2.0",
        ),
        (
            "sin, cos, tan, asin, acos, atan, sinh, cosh, tanh, asinh, atanh, exp, expm1, log1p",
            "0",
            "0.0 1.0 0.0 0.0 1.5707963267948966 0.0 0.0 1.0 0.0 0.0 0.0 1.0 0.0 0.0",
        ),
        (
            "log, log10, acosh, lgamma, tgamma, gamma, exp10, pow10, lgamma_r",
            "1",
            "0.0 0.0 0.0 0.0 1.0 0.0 10.0 10.0 [0.0,1]",
        ),
        (
            "frexp, modf, ldexp(.; 1), scalb(.; 1), scalbln(.; 1), drem(.; 3), nexttoward(.; .)",
            "4",
            "[0.5,3] [0.0,4.0] 8.0 8.0 8.0 1.0 4.0",
        ),
        (
            "atan2(0; 1), copysign(1; -1), fdim(3; 1), fmin(1; 2), fmax(1; 2), fmod(5; 3), hypot(3; 4), fma(1; 2; 3), ldexp(1; 2)",
            "0",
            "0.0 -1.0 2.0 1.0 2.0 2.0 5.0 5.0 4.0",
        ),
        (
            "(infinite | isinfinite), (nan | isnan), isnormal, (0 | isnormal), isinfinite",
            "1",
            "true true true false false",
        ),
        (
            "[.[] | tostring], add / length, (map(. * .) | add)",
            "[1,2,3]",
            r#"["1","2","3"] 2.0 14"#,
        ),
        ("[splits(\"x\")?], [limit(0; 1, 2)], (1 as $x | 2 as $y | [$x, $y])", "1", "[] [] [1,2]"),
    ]);
}

#[test]
fn date_functions_work_and_local_time_is_utc() {
    check_all(&[
        (
            "todate, date, todateiso8601, (todate | fromdate), (todate | fromdateiso8601)",
            "1425599621",
            r#""2015-03-05T23:53:41Z" "2015-03-05T23:53:41Z" "2015-03-05T23:53:41Z" 1425599621 1425599621"#,
        ),
        (
            "gmtime, (gmtime | mktime), strftime(\"%Y-%m-%d\")",
            "1425599621",
            r#"[2015,2,5,23,53,41,4,63] 1425599621 "2015-03-05""#,
        ),
        ("strptime(\"%Y-%m-%dT%H:%M:%SZ\") | mktime", r#""2015-03-05T23:51:47Z""#, "1425599507"),
        (
            "dateadd(\"seconds\"; 1), datesub(\"seconds\"; 1), now > .",
            "1425599621",
            "1425599622 1425599620 true",
        ),
        ("localtime[3], strflocaltime(\"%H %Z\")", "0", r#"0 "00 UTC""#),
    ]);
}
