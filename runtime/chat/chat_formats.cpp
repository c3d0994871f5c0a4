#include "chat/chat_formats.h"

#include <array>

namespace vga {
namespace {

// One template each, as short as it can be. Line breaks behind tags are dropped, see lexer.h.

constexpr std::string_view chatml = R"({% for m in messages %}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})";

constexpr std::string_view qwen2 = R"({% if messages[0].role != 'system' %}
{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{% for m in messages %}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})";

constexpr std::string_view qwen2_5 = R"({% if messages[0].role != 'system' %}
{{ '<|im_start|>system\n' -}}
{{ 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{% for m in messages %}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})";

// What a model thought before an answer is not said again.
constexpr std::string_view qwen3 = R"({% for m in messages %}
{% set content = m.content %}
{% if m.role == 'assistant' and '</think>' in content %}
{% set content = content.split('</think>')[-1].lstrip('\n') %}
{% endif %}
{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})";

constexpr std::string_view smollm2 = R"({% if messages[0].role != 'system' %}
{{ '<|im_start|>system\n' -}}
{{ 'You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}
{%- endif %}
{% for m in messages %}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})";

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

constexpr std::string_view llama3 = R"({{ bos_token }}
{%- for m in messages %}
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %})";

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

constexpr std::string_view zephyr = R"({% for m in messages %}
{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %})";

// Mistral's versions differ in their spaces. The system prompt stands in the first turn, where a
// cache can keep it.
constexpr std::string_view mistral = R"({% set ns = namespace(system='') %}
{{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{% set ns.system = m.content + '\n\n' %}
{% elif m.role == 'user' %}
{{ '[INST] ' + ns.system + m.content + ' [/INST]' }}
{%- set ns.system = '' %}
{% else %}
{{ ' ' + m.content|trim + eos_token }}
{%- endif %}
{% endfor %})";

constexpr std::string_view mistral_v1 = R"({% set ns = namespace(system='') %}
{{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{% set ns.system = m.content + '\n\n' %}
{% elif m.role == 'user' %}
{{ ' [INST] ' + ns.system + m.content + ' [/INST]' }}
{%- set ns.system = '' %}
{% else %}
{{ ' ' + m.content + eos_token }}
{%- endif %}
{% endfor %})";

constexpr std::string_view mistral_v3 = R"({% set ns = namespace(system='') %}
{{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{% set ns.system = m.content + '\n\n' %}
{% elif m.role == 'user' %}
{{ '[INST] ' + ns.system + m.content + '[/INST]' }}
{%- set ns.system = '' %}
{% else %}
{{ ' ' + m.content|trim + eos_token }}
{%- endif %}
{% endfor %})";

constexpr std::string_view mistral_v3_tekken = R"({% set ns = namespace(system='') %}
{{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{% set ns.system = m.content + '\n\n' %}
{% elif m.role == 'user' %}
{{ '[INST]' + ns.system + m.content + '[/INST]' }}
{%- set ns.system = '' %}
{% else %}
{{ m.content|trim + eos_token }}
{%- endif %}
{% endfor %})";

constexpr std::string_view mistral_v7 = R"({{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{{ '[SYSTEM_PROMPT] ' + m.content + '[/SYSTEM_PROMPT]' }}
{%- elif m.role == 'user' %}
{{ '[INST] ' + m.content + '[/INST]' }}
{%- else %}
{{ ' ' + m.content + eos_token }}
{%- endif %}
{% endfor %})";

constexpr std::string_view mistral_v7_tekken = R"({{ bos_token }}
{%- for m in messages %}
{% if m.role == 'system' %}
{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}
{%- elif m.role == 'user' %}
{{ '[INST]' + m.content + '[/INST]' }}
{%- else %}
{{ m.content + eos_token }}
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

constexpr std::string_view phi3 = R"({% for m in messages %}
{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %})";

constexpr std::string_view phi4 = R"({% for m in messages %}
{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %})";

constexpr std::string_view phi4_mini = R"({% for m in messages %}
{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %})";

constexpr std::string_view granite = R"({% for m in messages %}
{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %})";

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

constexpr std::array<ChatFormat, 25> formats = {{
    {"chatml", "<|im_start|>", chatml},
    {"qwen2", "<|im_start|>", qwen2},
    {"qwen2.5", "<|im_start|>", qwen2_5},
    {"qwen3", "<|im_start|>", qwen3},
    {"smollm2", "<|im_start|>", smollm2},
    {"llama2", "", llama2},
    {"llama3", "<|start_header_id|>", llama3},
    {"llama3.1", "<|start_header_id|>", llama3_1},
    {"zephyr", "", zephyr},
    {"mistral", "", mistral},
    {"mistral-v1", "", mistral_v1},
    {"mistral-v3", "", mistral_v3},
    {"mistral-v3-tekken", "", mistral_v3_tekken},
    {"mistral-v7", "", mistral_v7},
    {"mistral-v7-tekken", "", mistral_v7_tekken},
    {"gemma", "<start_of_turn>", gemma},
    {"phi3", "<|end|>", phi3},
    {"phi4", "<|im_sep|>", phi4},
    {"phi4-mini", "<|end|>", phi4_mini},
    {"granite", "<|start_of_role|>", granite},
    {"olmo2", "", olmo2},
    {"deepseek", "", deepseek},
    {"deepseek2", "", deepseek2},
    {"deepseek3", "", deepseek3},
    {"vicuna", "", vicuna},
}};

}  // namespace

std::span<const ChatFormat> chat_formats() {
  return formats;
}

}  // namespace vga
