# What jq 1.7 has and jaq has not, as far as it can be said in jq (its builtin.jq and its manual).

# Conversion
def toarray: if isarray then . else [.] end;
def ascii: [.] | implode;
def have_decnum: false;
def have_literal_numbers: true;
def trimstr($text): ltrimstr($text) | rtrimstr($text);

# Membership
def IN(s): any(s == .; .);
def IN(src; s): any(src == s; .);
def INDEX(stream; f): reduce stream as $row ({}; .[$row | f | tostring] = $row);
def INDEX(f): INDEX(.[]; f);
def isvalid(f): try (f | true) catch false;
def recurse_down: recurse;

# Paths
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

# Dates
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
