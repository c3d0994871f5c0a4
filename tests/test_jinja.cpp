/// The language that chat templates are written in.

#include <gtest/gtest.h>

#include "chat/evaluator.h"
#include "chat/parser.h"

namespace vga::jinja {
namespace {

std::string rendered(std::string_view source, size_t max_steps = 1'000'000) {
  Heap heap(max_steps);
  const auto program = parse(source);
  return std::string(
      run(*program, heap, {{"secret", heap.text(MarkedText("<m>", true))}}, 0).chars());
}

/// The message of what is wrong with a template, and the line.
std::string fault(const std::string& source) {
  try {
    return "no fault: " + rendered(source);
  } catch (const Fault& found) {
    return std::to_string(found.line) + ": " + found.what();
  }
}

// The right sides are what the jinja2 package makes of it.
TEST(Jinja, EqualsThePackage) {
  const std::pair<const char*, const char*> rows[] =
      {
          {R"T({{ 1 + 2 * 3 - 4 // 3 % 5 }} {{ 7 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7.5 % -2 }} {{ 2 - -1 }})T",
           R"T(6 3.5 -4 2 -0.5 3)T"},
          {R"T({{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ not 1 == 2 }})T",
           R"T(True True True True False True)T"},
          {R"T({{ 'x' ~ 1 ~ none ~ true ~ 1.5 ~ nothing ~ [1, 'a'] }})T",
           R"T(x1NoneTrue1.5[1, 'a'])T"},
          {R"T({{ 'a' in 'abc' }} {{ 'a' not in ['b'] }} {{ 'k' in {'k': 1} }} {{ 'x' in nothing }})T",
           R"T(True True True False)T"},
          {R"T({{ 'yes' if 1 else 'no' }}{{ 'yes' if 0 }}{{ 1 if 0 else 2 if 0 else 3 }})T",
           R"T(yes3)T"},
          {R"T({{ nothing or 'x' }} {{ '' and 'y' }}| {{ none and 1 }} {{ 0 or [] }})T",
           R"T(x | None [])T"},
          {R"T({{ (1, 2) }} {{ (1,) }} {{ [1, 2.0, 'a\'b', "q"] }} {{ {'a': 1, 'b': [true, none]} }})T",
           R"T((1, 2) (1,) [1, 2.0, "a'b", 'q'] {'a': 1, 'b': [True, None]})T"},
          {R"T({{ 'a\tb\x41\u00e4\q' }} {{ "it's" }} {{ ['it\'s', 'a"b', 'a\nb'] }})T",
           R"T(a	bAä\q it's ["it's", 'a"b', 'a\nb'])T"},
          {R"T({{ 1e3 }} {{ 1.0 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 1_000 }} {{ 123456789.5 }})T",
           R"T(1000.0 1.0 1e+16 1e-05 0.30000000000000004 1000 123456789.5)T"},
          {R"T({{ 'abc'[0] }}{{ 'abc'[-1] }}{{ 'abc'[7] }}{{ 'äbc'[1:] }}{{ 'abc'[::-1] }}{{ 'abcdef'[1:5:2] }}{{ 'abc'[:-1] }}{{ 'abc'[5:1:-2] }})T",
           R"T(acbccbabdabc)T"},
          {R"T({{ [1, 2, 3][1:] }}{{ [1, 2, 3][::-1] }}{{ [1, 2, 3][-2:] }}{{ [1][9] is defined }})T",
           R"T([2, 3][3, 2, 1][2, 3]False)T"},
          {R"T({{ {'a': {'b': 5}}.a.b }}{{ {'a': 1}['a'] }}{{ {'a': 1}.b is defined }}{{ {'items': 3}['items'] }})T",
           R"T(51False3)T"},
          {R"T({% for x in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %})T",
           R"T(103TrueFalse32;212FalseFalse313;321FalseTrue32;)T"},
          {R"T({% for x in [] %}a{% else %}empty{% endfor %}{% for c in 'äb' %}({{ c }}){% endfor %}{% for k in {'p': 1, 'q': 2} %}{{ k }}{% endfor %})T",
           R"T(empty(ä)(b)pq)T"},
          {R"T({% for k, v in {'p': 1, 'q': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }} {% endfor %})T",
           R"T(p=1;q=2;3 7 )T"},
          {R"T({% for x in range(10) if x % 2 %}{{ x }}{{ loop.last }} {% endfor %}{{ range(3)|list }}{{ range(5, 1, -2)|list }})T",
           R"T(1False 3False 5False 7False 9True [0, 1, 2][5, 3])T"},
          {R"T({% for x in range(9) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %})T",
           R"T(0134)T"},
          {R"T({% set x = 1 %}{% for i in range(3) %}{{ x }}{% set x = i %}{{ x }};{% endfor %}{{ x }})T",
           R"T(10;11;12;1)T"},
          {R"T({% set ns = namespace(n=0, s='') %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }}{{ ns.s }}{{ ns.other is defined }})T",
           R"T(60123False)T"},
          {R"T({% set a, b = 1, 2 %}{{ a }}{{ b }}{% set block %}<{{ a }}>{% endset %}{{ block }}{% set up | upper %}abc{% endset %}{{ up }})T",
           R"T(12<1>ABC)T"},
          {R"T({% if x is defined %}1{% elif false %}2{% else %}3{% endif %}{% if true %}{% set y = 5 %}{% endif %}{{ y }})T",
           R"T(35)T"},
          {R"T({% macro f(a, b=2, c=a) %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, c=3) }}{{ f() }}{{ f(b='x', a='y') }})T",
           R"T([1,2,1][1,2,3][,2,][y,x,y])T"},
          {R"T({% macro down(n) %}{{ n }}{% if n > 0 %}{{ down(n - 1) }}{% endif %}{% endmacro %}{{ down(4) }})T",
           R"T(43210)T"},
          {R"T({% set v = 1 %}{% macro f() %}{{ v }}{% endmacro %}{% set v = 2 %}{{ f() }}{% for v in [7] %}{{ f() }}{% endfor %})T",
           R"T(22)T"},
          {R"T({% filter upper %}abc{{ 1 }}{% endfilter %}{% with q = 3, r = 4 %}{{ q + r }}{% endwith %}{{ q is defined }}{% generation %}g{% endgeneration %})T",
           R"T(ABC17Falseg)T"},
          {R"T({{ ' a b '|trim }}|{{ 'xxaxx'|trim('x') }}|{{ 'hello wORLD-x (y'|title }}|{{ 'hELLO'|capitalize }}|{{ 'äB'|upper }}|{{ 'ÄB'|lower }})T",
           R"T(a b|a|Hello World-X (Y|Hello|ÄB|äb)T"},
          {R"T({{ nothing|default('d') }}{{ ''|default('d') }}{{ ''|default('d', true) }}{{ none|d('x') }}{{ nothing|default(value=1) if false }})T",
           R"T(ddNone)T"},
          {R"T({{ [3, 1, 2]|sort }}{{ ['b', 'A', 'c']|sort }}{{ ['b', 'A']|sort(case_sensitive=true) }}{{ [1, 2]|sort(reverse=true) }}{{ [{'n': 2}, {'n': 1}]|sort(attribute='n') }})T",
           R"T([1, 2, 3]['A', 'b', 'c']['A', 'b'][2, 1][{'n': 1}, {'n': 2}])T"},
          {R"T({{ [1, 2, 3]|join(', ') }}{{ 'abc'|join('-') }}{{ [{'a': 1}, {'a': 2}]|join('+', attribute='a') }}{{ [1, none]|join }})T",
           R"T(1, 2, 3a-b-c1+21None)T"},
          {R"T({{ [1, 2]|first }}{{ 'xyz'|last }}{{ []|first }}{{ [1, 2, 3]|reverse|list }}{{ 'abc'|reverse }}{{ [1, 2]|length }}{{ 'äö'|count }}{{ nothing|length }})T",
           R"T(1z[3, 2, 1]cba220)T"},
          {R"T({{ [1, 2, 3, 4]|select('odd')|list }}{{ [0, 1]|select|list }}{{ ['a', 'b']|reject('equalto', 'a')|list }}{{ [{'t': 'x', 'v': 1}, {'t': 'y'}]|selectattr('t', 'equalto', 'x')|map(attribute='v')|list }}{{ [{'t': 1}, {}]|rejectattr('t')|list }})T",
           R"T([1, 3][1]['b'][1][{}])T"},
          {R"T({{ ['a', 'b']|map('upper')|list }}{{ [{'a': {'b': 1}}, {}]|map(attribute='a.b', default=0)|list }}{{ none|select|list }})T",
           R"T(['A', 'B'][1, 0][])T"},
          {R"T({{ [1, 2, 2, 'A', 'a']|unique|list }}{{ {'b': 1, 'a': 2}|dictsort }}{{ {'b': 1, 'a': 2}|items|list }}{{ [1, 5, 2]|max }}{{ [1, 2]|sum }}{{ ['b', 'a']|min }})T",
           R"T([1, 2, 'A'][('a', 2), ('b', 1)][('b', 1), ('a', 2)]53a)T"},
          {R"T({{ '12'|int + 1 }}{{ 'x'|int }}{{ '1.9'|int }}{{ 'x'|int(default=7) }}{{ '1.5'|float }}{{ 3|string ~ 'a' }}{{ -3|abs }}{{ 2.567|round(2) }}{{ 2.5|round }}{{ 'abc'|list }})T",
           R"T(130171.53a32.572.0['a', 'b', 'c'])T"},
          {R"T({{ 'a-b-a'|replace('a', 'x') }}{{ 'aaa'|replace('a', 'b', 2) }}{{ 'a\nb\n\nc'|indent(2) }}{{ 'a\nb'|indent(2, true) }}{{ '<a href="x">&\''|e }}{{ 'one two'|wordcount }})T",
           R"T(x-b-xbbaa
  b

  c  a
  b&lt;a href=&#34;x&#34;&gt;&amp;&#39;2)T"},
          {R"T({{ {'a': [1, 2.5, none, true, 'x"\n\u2028é']}|tojson }}{{ {'b': 1, 'a': {}}|tojson(indent=2) }}{{ [[], [1]]|tojson(indent=1) }}{{ 'é'|tojson(ensure_ascii=true) }}{{ {'b': 1, 'a': 2}|tojson(sort_keys=true, separators=(',', ':')) }})T",
           R"T({"a": [1, 2.5, null, true, "x\"\n é"]}{
  "b": 1,
  "a": {}
}[
 [],
 [
  1
 ]
]"\u00e9"{"a":2,"b":1})T"},
          {R"T({{ ' ab '.strip() }}|{{ 'xabx'.strip('x') }}|{{ '  a'.lstrip() }}|{{ 'a  '.rstrip() }}|{{ 'a,b,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a b c'.split(' ', 1) }}{{ 'a b c'.rsplit(' ', 1) }}{{ 'a b  c'.split(none, 1) }})T",
           R"T(ab|ab|a|a|['a', 'b', 'c']['a', 'b']['a', 'b c']['a b', 'c']['a', 'b  c'])T"},
          {R"T({{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'abc'.find('c') }}{{ 'äbä'.rfind('ä') }}{{ 'a.b'.partition('.') }}{{ 'aXbX'.replace('X', '', 1) }}{{ 'a\nb\r\nc'.splitlines() }}{{ 'hello there'.title() }}{{ 'aba'.count('a') }})T",
           R"T(TrueTrue22('a', '.', 'b')abX['a', 'b', 'c']Hello There2)T"},
          {R"T({{ '-'.join(['a', 'b']) }}{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ 'aBC'.capitalize() }}{{ 'a'.upper() }}{{ '{} of {}'.format(1, 'x') }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}{{ [1, 2, 1].count(1) }}{{ ['a'].index('a') }})T",
           R"T(a-bTrueTrueAbcA1 of xbcab20)T"},
          {R"T({{ {'a': 1}.get('a') }}{{ {'a': 1}.get('b') }}{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}.keys()|list }}{{ {'a': 1}.values()|list }})T",
           R"T(1None2['a'][1])T"},
          {R"T({{ 1 is odd }}{{ 2 is even }}{{ 4 is divisibleby 2 }}{{ 'a' is string }}{{ [] is iterable }}{{ {} is mapping }}{{ none is none }}{{ 1 is number }}{{ true is number }}{{ true is integer }}{{ 1.0 is float }}{{ true is boolean }}{{ 'a' is eq 'a' }}{{ 1 is not none }}{{ x is undefined }}{{ 'a' is in ['a'] }}{{ 'a' is lower }}{{ true is true }}{{ 1 is true }}{{ [] is sequence }}{{ range is callable }}{{ 3 is gt 2 }}{{ 1 is sameas 1 }})T",
           R"T(TrueTrueTrueTrueTrueTrueTrueTrueTrueFalseTrueTrueTrueTrueTrueTrueTrueTrueFalseTrueTrueTrueTrue)T"},
          {R"T(a  {#- c -#}  b{# c #})T", R"T(ab)T"},
          {R"T(  {% if true %}
  x
  {%- endif %}
  y {% if true -%}
    z
{% endif %})T",
           R"T(  x  y z
)T"},
          {R"T({% raw %}{{ x }} {% if %}{% endraw %}{%- raw -%}  {# #}{% endraw %}|)T",
           R"T({{ x }} {% if %}{# #}|)T"},
          {R"T(  {%+ if true %}a{% endif +%}
b {{- ' c' -}}   d {{ 'e' }})T",
           R"T(  a
b cd e)T"},
          {R"T({{ 1 }}{# a #}{{ {'a': {'b': {}}} }}{{ 'a' 'b' }}{{ not x is defined }}{{ 1 if x is defined else 2 }}{{ [1, 2,] }}{{ -1|abs }}{{ 'a'|upper ~ 'b' }}{{ ['x', 'y'].0 }})T",
           R"T(1{'a': {'b': {}}}abTrue2[1, 2]1Abx)T"},
      };
  for (const auto& [source, wanted] : rows) EXPECT_EQ(rendered(source), wanted) << source;
}

TEST(Jinja, ReadsLineBreaksAsThePackage) {
  EXPECT_EQ(rendered("a\r\nb\rc\n"), "a\nb\nc");
  EXPECT_EQ(rendered("{% if true %}\r\nx{% endif %}\n\n"), "x");
  EXPECT_EQ(rendered(""), "");
}

TEST(Jinja, WhatIsNotKnownIsNamedWithItsLine) {
  const std::pair<const char*, const char*> rows[] = {
      {"\n{% include 'x' %}", "2: the tag 'include' is not known here"},
      {"{% block a %}{% endblock %}", "1: the tag 'block' is not known here"},
      {"{% for x in y recursive %}{% endfor %}", "1: a 'recursive' loop is not known here"},
      {"{{ 2 ** 3 }}", "1: the operator '**' is not known here"},
      {"{{ f(*x) }}", "1: arguments with '*' are not known here"},
      {"a\nb\n{{ 'a'|groupby('x') }}", "3: the filter 'groupby' is not known here"},
      {"{{ 1 is foo }}", "1: the test 'foo' is not known here"},
      {"{{ 'a'.encode() }}", "1: 'encode' is not known here, and is called"},
      {"{{ 'a'.zfill(3) }}", "1: the method 'zfill' of str is not known here"},
      {"{{ [].append(1) }}", "1: the method 'append' would change a list"},
      {"{{ cycler(1) }}", "1: 'cycler' is not known here, and is called"},
      {"{{ [1]|sort(key=1) }}", "1: the argument 'key' of 'sort' is not known here"},
      {"{% for x in [1] %}{% macro f() %}{% endmacro %}{% endfor %}",
       "1: a macro in a loop, macro or other scope is not known here"}};
  for (const auto& [source, wanted] : rows) EXPECT_EQ(fault(source), wanted) << source;
}

TEST(Jinja, WhatIsWrongIsAFault) {
  for (const char* source : {"{{",
                             "{% if",
                             "{{ 1 }",
                             "{# a",
                             "{% raw %}",
                             "{% if x %}",
                             "{% for x in y %}",
                             "{{ 'a }}",
                             "{% endif %}",
                             "{{ ) }}",
                             "{{ (1 }}",
                             "{{ [1 }}",
                             "{{ 1a }}",
                             "{{ a. }}",
                             "{{ 'a\\' }}",
                             "{{ '\\x1' }}",
                             "{{ '\\N{DASH}' }}",
                             "{{ 99999999999999999999 }}",
                             "{{ @ }}",
                             "{{ }}",
                             "{% set %}",
                             "{% set a.b %}{% endset %}",
                             "{% break %}",
                             "{{ x[] }}",
                             "{{ x[1, 2] }}",
                             "{% macro f(a=1, b) %}{% endmacro %}",
                             "{{ f(a=1, 2) }}",
                             "{{ 'a'[::0] }}",
                             "{{ nothing.x }}",
                             "{{ nothing + 1 }}",
                             "{{ nothing() }}",
                             "{{ 1 + 'a' }}",
                             "{{ 1 < 'a' }}",
                             "{{ 1 // 0 }}",
                             "{{ 1 % 0 }}",
                             "{{ 9223372036854775807 + 1 }}",
                             "{{ 1 in 2 }}",
                             "{{ range }}",
                             "{% for a, b in [1] %}{% endfor %}",
                             "{% for a, b in [[1]] %}{% endfor %}",
                             "{% set x.y = 1 %}",
                             "{{ 1|length }}",
                             "{{ nothing|tojson }}",
                             "{{ 'a'.split('') }}",
                             "{{ namespace() }}",
                             "{{ raise_exception('no') }}",
                             "{{ range(1, 2, 0) }}",
                             "{{ 1[:] }}"}) {
    EXPECT_THROW(rendered(source), Fault) << source;
  }
}

TEST(Jinja, IsStoppedBeforeItTakesTooMuch) {
  for (const char* source :
       {"{% for i in range(9999999999) %}{% endfor %}",
        "{% for i in range(2000) %}{% for j in range(2000) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% "
        "endfor %}",
        "{{ 'x' * 999999999999 }}", "{{ ('x' * 9999)|replace('x', 'x' * 9999) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor "
        "%}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}"
        "{% endfor %}{{ ns.l }}",
        "{{ ('x' * 9999 + '\n') * 999|indent(1000) }}", "{{ [[1] * 2]|tojson(indent=999) }}"}) {
    EXPECT_THROW(rendered(source), Fault) << source;
  }
  const auto nested = [](std::string_view open, std::string_view close) {
    std::string text = "{{ ";
    for (int i = 0; i < 100'000; ++i) text += open;
    text += "1";
    for (int i = 0; i < 100'000; ++i) text += close;
    return text + " }}";
  };
  for (const auto& [open, close] : {std::pair("(", ")"),
                                    {"[", "]"},
                                    {"{1: ", "}"},
                                    {"not ", ""},
                                    {"-", ""},
                                    {"1 + ", ""},
                                    {"", ".a"},
                                    {"", "|list"},
                                    {"", "[0]"},
                                    {"1 if 1 else ", ""},
                                    {"1 if ", " else 1"},
                                    {"f(", ")"}}) {
    EXPECT_THROW(rendered(nested(open, close)), Fault) << open;
  }
  std::string blocks;
  for (int i = 0; i < 100'000; ++i) blocks += "{% if 1 %}";
  EXPECT_THROW(rendered(blocks), Fault);
}

/// What a template makes, `<` and `>` around what came from a message.
std::string marked(std::string_view source) {
  Heap heap(100'000);
  const auto program = parse(source);
  const std::vector<std::pair<std::string_view, Value>> names = {
      {"m", heap.text(MarkedText(" ab,c\"d ", true))}};
  const MarkedText text = run(*program, heap, names, 0);
  std::string out;
  size_t begin = 0;
  for (const auto& part : text.runs()) {
    const std::string chars(text.chars().substr(begin, part.end - begin));
    out += part.from_message ? "<" + chars + ">" : chars;
    begin = part.end;
  }
  return out;
}

TEST(Jinja, TextsRememberWhatCameFromAMessage) {
  const std::pair<const char*, const char*> rows[] = {
      {"a{{ m }}b", "a< ab,c\"d >b"},
      {"{{ 'x' + m|trim + 'y' }}", "x<ab,c\"d>y"},
      {"{{ 'x' ~ m.strip()[1:3] }}", "x<b,>"},
      {"{{ m.split(',')|join('|') }}", "< ab>|<c\"d >"},
      {"{{ m.split(',')[-1]|upper }}", "<C\"D >"},
      {"{{ m|tojson }}", "\"< ab,c\\\"d >\""},
      {"{{ [m] }}", "['< ab,c\"d >']"},
      {"{{ m|replace(',', ' and ') }}", "< ab> and <c\"d >"},
      {"{{ 'a,b'|replace('a', m) }}", "< ab,c\"d >,b"},
      {"{{ m|trim|capitalize }}{{ m|title }}", "<Ab,c\"d Ab,c\"d >"},
      {"{{ m|reverse }}", "< d\"c,ba >"},
      {"{{ m|indent(1, true) }}", " < ab,c\"d >"},
      {"{% for c in m.strip()[:2] %}{{ c }}-{% endfor %}", "<a>-<b>-"},
      {"{% set x %}[{{ m }}]{% endset %}{{ x }}", "[< ab,c\"d >]"},
      {"{% macro f(t) %}({{ t }}){% endmacro %}{{ f(m) }}", "(< ab,c\"d >)"},
      {"{{ '{}!'.format(m) }}", "< ab,c\"d >!"},
      {"{{ m * 2 }}", "< ab,c\"d  ab,c\"d >"},
      {"{{ m|e }}", "< ab,c&#34;d >"},
      {"{{ {'k': m}.items()|list }}", "[('k', '< ab,c\"d >')]"},
      {"{{ m|length }}", "8"}};
  for (const auto& [source, wanted] : rows) EXPECT_EQ(marked(source), wanted) << source;
}

}  // namespace
}  // namespace vga::jinja
