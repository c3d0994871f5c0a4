/// Vocabularies as GGUF files have them, good ones with anything changed, and a text for each:
/// loaded, encoded, decoded. Only vga::Error may come out.

#include <array>
#include <string>
#include <vector>

#include <fuzzer/FuzzedDataProvider.h>

#include "byte_spelling.h"
#include "exercise_tokenizer.h"
#include "gguf_image.h"
#include "scratch_file.h"
#include "vga/error.h"

namespace {

using vga::test::GgufImage;

std::vector<std::string> byte_level_bytes() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    tokens.push_back(vga::test::spell({&c, 1}));
  }
  return tokens;
}

std::vector<std::string> sentencepiece_bytes() {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", "\u2581"};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    tokens.push_back(std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">");
  }
  return tokens;
}

/// Two tokens that may well be in the vocabulary, joined by `between`.
std::string pair(FuzzedDataProvider& in, const std::vector<std::string>& tokens,
                 std::string_view between) {
  const auto any = [&] { return tokens[in.ConsumeIntegralInRange<size_t>(0, tokens.size() - 1)]; };
  const std::string first = any();
  return first + std::string(between) + any();
}

std::string next_text(FuzzedDataProvider& in) {
  return in.ConsumeRandomLengthString(12);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider in(data, size);
  const std::string kind = in.PickValueInArray({"gpt2", "gpt2", "llama", "t5"});
  const bool byte_level = kind == "gpt2";
  std::vector<std::string> tokens = byte_level ? byte_level_bytes() : sentencepiece_bytes();
  std::vector<int32_t> types(tokens.size(), byte_level ? 1 : 6);
  if (!byte_level) std::copy_n(std::array{2, 3, 3, 1}.begin(), 4, types.begin());
  std::vector<std::string> merges;
  std::vector<float> scores(tokens.size(), 0.f);
  std::string text = " Once <|im_start|>  upon\xFF\n\xE2\x96\x81\xF0\x9F\xA6\x8A 12345 aaaa";
  for (size_t steps = 0; in.remaining_bytes() > 0 && steps < 200; ++steps) {
    switch (in.ConsumeIntegralInRange(0, 7)) {
      case 0:  // a merge as there should be
      case 1:
      case 2: {
        const std::string merge = pair(in, tokens, " ");
        merges.push_back(merge);
        tokens.push_back(merge.substr(0, merge.find(' ')) + merge.substr(merge.find(' ') + 1));
        types.push_back(1);
        scores.push_back(in.ConsumeFloatingPointInRange(-100.f, 0.f));
        break;
      }
      case 3:
        merges.push_back(in.ConsumeBool() ? next_text(in) : pair(in, tokens, " "));
        break;
      case 4:
        tokens.push_back(next_text(in));
        types.push_back(in.ConsumeIntegralInRange(0, 7));
        scores.push_back(in.ConsumeFloatingPoint<float>());
        break;
      case 5:
        tokens[in.ConsumeIntegralInRange<size_t>(0, tokens.size() - 1)] = next_text(in);
        break;
      case 6:
        types[in.ConsumeIntegralInRange<size_t>(0, types.size() - 1)] =
            in.ConsumeIntegralInRange(1, 6);
        break;
      default:
        text += next_text(in);
        break;
    }
  }

  GgufImage image;
  const auto array = [&]<class T>(const char* key, vga::GgufType type, const std::vector<T>& v) {
    image.set_array(key, type, v.size(),
                    {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T)});
  };
  image.set("tokenizer.ggml.model", kind);
  image.set("tokenizer.ggml.pre",
            in.PickValueInArray({"gpt-2", "llama-bpe", "smollm", "qwen2", "tekken"}));
  image.set_strings("tokenizer.ggml.tokens", tokens);
  image.set_strings("tokenizer.ggml.merges", merges);
  array("tokenizer.ggml.token_type", vga::GgufType::i32, types);
  array("tokenizer.ggml.scores", vga::GgufType::f32, scores);
  image.set("tokenizer.ggml.eos_token_id", in.ConsumeIntegralInRange<uint32_t>(0, 300));
  try {
    const auto tokenizer =
        vga::Tokenizer::from_gguf(vga::Gguf::open(vga::test::scratch_file(image.bytes())));
    vga::test::exercise(tokenizer, text);
  } catch (const vga::Error&) {
  }
  return 0;
}
