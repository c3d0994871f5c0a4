#include "chat/chat_formats.h"

#include <array>

namespace vga {
namespace {

// Templates as short as they can be. Line breaks behind tags are dropped, see lexer.h. What formats
// of one kind differ in is set in front of the template.

// Each message between its markers. `own` is what is said where there is no system prompt; what a
// model thought before an answer is said again unless it `forgets`.
constexpr std::string_view marked = R"({{ first }}
{%- if own and messages[0].role != 'system' %}
{{ begin + 'system' + middle + own + end }}
{%- endif %}
{% for m in messages %}
{% set content = m.content|trim if trims else m.content %}
{% if forgets and m.role == 'assistant' and '</think>' in content %}
{% set content = content.split('</think>')[-1].lstrip('\n') %}
{% endif %}
{{ begin + m.role + middle + content + end }}
{%- endfor %}
{% if add_generation_prompt %}{{ begin + 'assistant' + middle }}{% endif %})";

// Each exchange is a sequence of its own between bos and eos.
constexpr std::string_view llama2 = R"({% set ns = namespace(system='') %}
{% for m in messages %}
{% if m.role == 'system' %}
{% set ns.system = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}
{% elif m.role == 'user' %}
{{ bos_token + '[INST] ' + (ns.system + m.content).strip() + ' [/INST]' }}
{%- set ns.system = '' %}
{% else %}
{{ ' ' + m.content.strip() + ' ' + eos_token }}
{%- endif %}
{% endfor %})";

// The date is what the templates say where nobody gives them one.
constexpr std::string_view llama3_1 = R"({% set first = 0 %}
{% set system = '' %}
{% if messages[0].role == 'system' %}
{% set system = messages[0].content|trim %}
{% set first = 1 %}
{% endif %}
{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\n' -}}
{{ 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' }}
{%- for m in messages[first:] %}
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %})";

// Mistral's versions differ in their spaces. The system prompt stands in the first turn, where a
// cache can keep it.
constexpr std::string_view mistral = R"({% set ns = namespace(system='') %}
{{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{% set ns.system = m.content + '\n\n' %}
{% elif m.role == 'user' %}
{{ begin + ns.system + m.content + end }}
{%- set ns.system = '' %}
{% else %}
{{ space + m.content|trim + eos_token }}
{%- endif %}
{% endfor %})";

constexpr std::string_view mistral_v7 = R"({{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{{ '[SYSTEM_PROMPT]' + space + m.content + '[/SYSTEM_PROMPT]' }}
{%- elif m.role == 'user' %}
{{ '[INST]' + space + m.content + '[/INST]' }}
{%- else %}
{{ space + m.content + eos_token }}
{%- endif %}
{% endfor %})";

// There is no system role.
constexpr std::string_view gemma = R"({{ bos_token }}
{%- set ns = namespace(system='') %}
{% for m in messages %}
{% if m.role == 'system' %}
{% set ns.system = m.content + '\n\n' %}
{% else %}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' -}}
{{ ns.system + m.content|trim + '<end_of_turn>\n' }}
{%- set ns.system = '' %}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %})";

constexpr std::string_view olmo2 = R"({{ bos_token }}
{%- for m in messages %}
{{ '<|' + m.role + '|>\n' + m.content + (eos_token if m.role == 'assistant' else '') + '\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %})";

// DeepSeek Coder's.
constexpr std::string_view deepseek = R"({{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{{ m.content }}
{%- elif m.role == 'user' %}
{{ '### Instruction:\n' + m.content + '\n' }}
{%- else %}
{{ '### Response:\n' + m.content + '\n<|EOT|>\n' }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '### Response:' }}{% endif %})";

constexpr std::string_view deepseek2 = R"({{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{{ m.content + '\n\n' }}
{%- elif m.role == 'user' %}
{{ 'User: ' + m.content + '\n\n' }}
{%- else %}
{{ 'Assistant: ' + m.content + eos_token }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %})";

// V3 and R1, which does not see again what it thought.
constexpr std::string_view deepseek3 = R"({{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{{ m.content }}
{%- elif m.role == 'user' %}
{{ '<｜User｜>' + m.content }}
{%- else %}
{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %})";

constexpr std::string_view vicuna = R"({{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{{ m.content + ' ' }}
{%- elif m.role == 'user' %}
{{ 'USER: ' + m.content + ' ' }}
{%- else %}
{{ 'ASSISTANT: ' + m.content + eos_token }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %})";

constexpr std::string_view im_start =
    R"({% set begin, middle, end = '<|im_start|>', '\n', '<|im_end|>\n' %})";

constexpr std::array<ChatFormat, 25> formats = {{
    {"chatml", "<|im_start|>", {im_start}, marked},
    {"qwen2", "<|im_start|>", {im_start, "{% set own = 'You are a helpful assistant.' %}"}, marked},
    {"qwen2.5",
     "<|im_start|>",
     {im_start,
      "{% set own = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}"},
     marked},
    {"qwen3", "<|im_start|>", {im_start, "{% set forgets = true %}"}, marked},
    {"smollm2",
     "<|im_start|>",
     {im_start,
      "{% set own = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face' %}"},
     marked},
    {"llama2", "", {}, llama2},
    {"llama3",
     "<|start_header_id|>",
     {R"({% set begin, middle = '<|start_header_id|>', '<|end_header_id|>\n\n' %})",
      "{% set first, end, trims = bos_token, '<|eot_id|>', true %}"},
     marked},
    {"llama3.1", "<|start_header_id|>", {}, llama3_1},
    {"zephyr", "", {R"({% set begin, middle, end = '<|', '|>\n', eos_token + '\n' %})"}, marked},
    {"mistral", "", {"{% set begin, end, space = '[INST] ', ' [/INST]', ' ' %}"}, mistral},
    {"mistral-v1", "", {"{% set begin, end, space = ' [INST] ', ' [/INST]', ' ' %}"}, mistral},
    {"mistral-v3", "", {"{% set begin, end, space = '[INST] ', '[/INST]', ' ' %}"}, mistral},
    {"mistral-v3-tekken", "", {"{% set begin, end, space = '[INST]', '[/INST]', '' %}"}, mistral},
    {"mistral-v7", "", {"{% set space = ' ' %}"}, mistral_v7},
    {"mistral-v7-tekken", "", {"{% set space = '' %}"}, mistral_v7},
    {"gemma", "<start_of_turn>", {}, gemma},
    {"phi3", "<|end|>", {R"({% set begin, middle, end = '<|', '|>\n', '<|end|>\n' %})"}, marked},
    {"phi4",
     "<|im_sep|>",
     {"{% set begin, middle, end = '<|im_start|>', '<|im_sep|>', '<|im_end|>' %}"},
     marked},
    {"phi4-mini", "<|end|>", {"{% set begin, middle, end = '<|', '|>', '<|end|>' %}"}, marked},
    {"granite",
     "<|start_of_role|>",
     {"{% set begin, middle = '<|start_of_role|>', '<|end_of_role|>' %}",
      R"({% set end = '<|end_of_text|>\n' %})"},
     marked},
    {"olmo2", "", {}, olmo2},
    {"deepseek", "", {}, deepseek},
    {"deepseek2", "", {}, deepseek2},
    {"deepseek3", "", {}, deepseek3},
    {"vicuna", "", {}, vicuna},
}};

}  // namespace

std::string ChatFormat::jinja() const {
  std::string text;
  for (const std::string_view part : settings) text += part;
  return text += body;
}

std::span<const ChatFormat> chat_formats() {
  return formats;
}

}  // namespace vga
