# Definitions of jq 1.7 that jaq lacks or defines differently, as far as jq itself can express them
# (from its builtin.jq and its manual).

# Conversion
def toarray: if isarray then . else [.] end;
def ascii: [.] | implode;
def have_decnum: false;
def have_literal_numbers: true;
def ltrimstr($text):
  if isstring and ($text | isstring) and startswith($text) then .[$text | length:] end;
def rtrimstr($text):
  if isstring and ($text | isstring and . != "") and endswith($text) then .[:-($text | length)] end;
def trimstr($text): ltrimstr($text) | rtrimstr($text);

# Membership
def IN(s): any(s == .; .);
def IN(src; s): any(src == s; .);
def INDEX(stream; f): reduce stream as $row ({}; .[$row | f | tostring] = $row);
def INDEX(f): INDEX(.[]; f);
def isvalid(f): try (f | true) catch false;
def recurse_down: recurse;
def repeat(f): def rest: ., (f | rest); rest;

# Paths
def setpath($path; $value):
  def put($rest):
    if $rest == [] then $value
    else $rest[0] as $key
      | (.[$key] | put($rest[1:])) as $new
      | if ($key | isnumber) and $key >= 0 and (. == null or isarray) then
          (. // []) as $all | ($key - ($all | length)) as $beyond
          | if $beyond < 0 then $all | .[$key] = $new
            else $all + [range($beyond) | null] + [$new] end
        else (if . == null then {} end) | .[$key] = $new end
    end;
  put($path);
def delpaths($paths):
  reduce ($paths | unique | reverse[]) as $path (.;
    if $path == [] then null
    elif getpath($path[:-1]) | . != null and has($path[-1]) then getpath($path) |= empty end);
def del(f): delpaths([path(f)]);
def leaf_paths: paths(scalars);
def tostream:
  path(def r: (.[]? | r), .; r) as $path
  | getpath($path)
  | reduce path(.[]?) as $inner ([$path, .]; [$path + $inner]);
def fromstream(f):
  {x: null, e: false} as $init
  | foreach f as $i ($init;
      if .e then $init end
      | if $i | length == 2
        then setpath(["e"]; $i[0] | length == 0) | setpath(["x"] + $i[0]; $i[1])
        else setpath(["e"]; $i[0] | length == 1) end;
      if .e then .x else empty end);
def truncate_stream(stream):
  . as $n | null | stream | . as $input
  | if (.[0] | length) > $n then setpath([0]; .[0][$n:]) else empty end;

# Mathematics
def gamma: lgamma;
def lgamma_r: [lgamma, if tgamma < 0 then -1 else 1 end];

# Dates. The evaluators have no access to the files of time zones, so local time is UTC.
def localtime: gmtime;
def strflocaltime($format): strftime($format);
def date: todate;
def dateadd(u; n): . + n;
def datesub(u; n): . - n;

# Formatting
def @csv: [.[] |
    if isnumber then tostring
    elif isboolean then tostring
    elif . == null then ""
    elif isstring then "\"" + (split("\"") | join("\"\"")) + "\""
    else error("\(type) is not valid in a csv row") end
  ] | join(",");
def @tsv: [.[] |
    if isnumber then tostring
    elif isboolean then tostring
    elif . == null then ""
    elif isstring then
      (split("\\") | join("\\\\")) | (split("\t") | join("\\t"))
      | (split("\n") | join("\\n")) | (split("\r") | join("\\r"))
    else error("\(type) cannot be formatted as tsv") end
  ] | join("\t");
def @base32:
  "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" as $letters
  | (tostring | tobytes) as $bytes
  | [range(0; $bytes | length; 5) as $at
      | (reduce range(5) as $n (0; . * 256 + ($bytes[$at + $n] // 0))) as $bits
      | ([2, 4, 5, 7, 8][[($bytes | length) - $at, 5] | min - 1]) as $used
      | range(8) as $n
      | if $n < $used then ($bits / pow(32; 7 - $n) | floor % 32) as $i | $letters[$i:$i + 1]
        else "=" end
    ] | join("");
def @base32d:
  [tostring | rtrimstr("======") | rtrimstr("====") | rtrimstr("===") | rtrimstr("=") | explode[]
    | if . >= 65 and . <= 90 then . - 65
      elif . >= 50 and . <= 55 then . - 24
      else error("this is not valid base32 data") end] as $all
  | [range(0; $all | length; 8) as $at
      | $all[$at:$at + 8] as $part
      | (reduce range(8) as $n (0; . * 32 + ($part[$n] // 0))) as $bits
      | range(($part | length) * 5 / 8 | floor) as $n
      | $bits / pow(256; 4 - $n) | floor % 256
    ] | tobytes | tostring;
