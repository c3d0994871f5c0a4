#include "conversion.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/text.h"
#include "model/families.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer_json.h"
#include "transform.h"
#include "vga/error.h"

namespace vga {
namespace {

namespace fs = std::filesystem;

/// A tensor of the checkpoint.
struct Source {
  std::string name;
  const SourceTensor* tensor;
};

/// What the checkpoint has of a tensor that will be written: one of its own, or one for each
/// expert.
struct Found {
  Transform transform = Transform::none;
  std::map<size_t, Source> sources;  // by expert, or one under 0
  bool by_expert = false;

  const Source& first() const { return sources.begin()->second; }
};
/// By the names that they will have.
using FoundTensors = std::map<std::string, Found>;

/// A tensor of the checkpoint, and what it is called without wrappers and after what the user says.
struct Named {
  const std::string* source_name;
  const SourceTensor* tensor;
  std::string name;
};

std::vector<Named> apply_rules(const Checkpoint& checkpoint, const NameRules& rules,
                               std::vector<SkippedTensor>& skipped) {
  std::vector<Named> tensors;
  for (const auto& [source_name, tensor] : checkpoint.tensors) {
    std::string name = unwrapped_name(source_name);
    if (std::ranges::any_of(rules.skips, [&](const Skip& skip) { return skip.matches(name); })) {
      skipped.push_back({source_name, "--skip"});
      continue;
    }
    name = renamed(std::move(name), rules.renames);
    if (is_redundant(name)) {
      skipped.push_back({source_name, "the model does not need it"});
      continue;
    }
    tensors.push_back({&source_name, &tensor, std::move(name)});
  }
  return tensors;
}

NameMap name_map(const Checkpoint& checkpoint, const std::vector<Named>& tensors) {
  std::vector<std::string> names;
  for (const Named& tensor : tensors) names.push_back(tensor.name);
  return {name_table(checkpoint.model_type), names};
}

/// The checkpoint's tensors by their names in the GGUF file.
FoundTensors match_names(const Checkpoint& checkpoint, const std::vector<Named>& tensors,
                         const NameMap& map) {
  FoundTensors found;
  for (const auto& [name, tensor] : checkpoint.rope_tensors) {
    found.emplace(name, Found{.sources = {{0, {name, &tensor}}}});
  }
  for (const auto& [source_name, tensor, name] : tensors) {
    const std::string where = checkpoint.path + ": tensor '" + *source_name + "'";
    if (is_adapter(name)) {
      throw Error(where,
                  "is a part of an adapter, which must be merged into the model before (PEFT: "
                  "merge_and_unload()); if it was, --skip lora_ leaves it out");
    }
    const std::vector<Target> targets = map.find(name);
    if (targets.empty()) {
      throw Error(where, std::string(name == *source_name ? "" : "taken as '" + name + "', ") +
                             "is no part of this model; --rename maps names that differ, --skip "
                             "leaves out what the model does not need");
    }
    for (const Target& target : targets) {
      const bool by_expert = target.expert.has_value();
      Found& weight =
          found.emplace(target.name, Found{target.transform, {}, by_expert}).first->second;
      const auto [twin, is_new] =
          weight.sources.emplace(target.expert.value_or(0), Source{*source_name, tensor});
      if (!is_new || weight.by_expert != by_expert) {
        throw Error(where, "means the same as tensor '" + twin->second.name + "'");
      }
    }
  }
  return found;
}

bool same_values(const SourceTensor& a, const SourceTensor& b) {
  if (a.shape != b.shape || a.shape.size() != 2 || a.type != b.type || !a.type) return false;
  if (a.data == b.data && a.strides == b.strides) return true;
  std::vector<float> row_a(a.shape[1]);
  std::vector<float> row_b(b.shape[1]);
  for (size_t r = 0; r < a.shape[0]; ++r) {
    a.read_row(r, row_a);
    b.read_row(r, row_b);
    if (row_a != row_b) return false;
  }
  return true;
}

/// A config that says "tied" is believed where there is no output matrix, or a copy of the
/// embedding.
void check_ties(Config& config, FoundTensors& found, Conversion& conversion) {
  const auto output = found.find("output.weight");
  if (!config.tied_embeddings || output == found.end()) return;
  const auto embedding = found.find("token_embd.weight");
  const auto& [name, tensor] = output->second.first();
  if (embedding == found.end() || same_values(*embedding->second.first().tensor, *tensor)) {
    conversion.skipped.push_back({name, "a copy of the embedding"});
    found.erase(output);
    return;
  }
  config.tied_embeddings = false;
  conversion.notes.push_back("tensor '" + name +
                             "' differs from the embedding, so it is written, " +
                             "though tie_word_embeddings is true");
}

void check_tensor(const std::vector<uint64_t>& shape, const SourceTensor& tensor,
                  const std::string& where) {
  if (tensor.shape != shape) {
    throw Error(where, "wanted shape " + bracketed(shape) + ", found " + bracketed(tensor.shape));
  }
  if (!tensor.type) {
    throw Error(where, "wanted f32, f16 or bf16 values, found " + tensor.type_name);
  }
}

/// The source of a weight, or those of all experts.
std::vector<TransformedTensor> sources_of(const WeightSpec& spec, const Found& found,
                                          Transform transform, const Config& config,
                                          const std::string& path, const NameMap& map) {
  std::vector<uint64_t> shape = spec.shape();
  if (found.by_expert && spec.experts > 0) shape.erase(shape.begin());
  std::vector<TransformedTensor> sources;
  for (size_t i = 0; i < (found.by_expert ? spec.experts : 1); ++i) {
    const auto at = found.sources.find(i);
    if (at == found.sources.end()) {
      std::string missing = map.source_of(spec.name);
      const size_t number = missing.find('#');
      if (number != missing.npos) missing.replace(number, 1, std::to_string(i));
      throw Error(path, "tensor '" + missing + "' is missing, wanted " + bracketed(shape));
    }
    const auto& [name, tensor] = at->second;
    sources.emplace_back(*tensor, transform, config);
    check_tensor(shape, sources.back().source(),
                 std::string(path).append(": tensor '").append(name).append("'"));
  }
  if (found.sources.size() > sources.size()) {
    throw Error(path, "tensor '" + found.sources.rbegin()->second.name +
                          "' is of an expert too many, wanted " + std::to_string(spec.experts));
  }
  return sources;
}

bool is_json(std::span<const std::byte> bytes) {
  const auto is_space = [](std::byte b) {
    return b == std::byte{' '} || b == std::byte{'\n'} || b == std::byte{'\r'} ||
           b == std::byte{'\t'};
  };
  const auto first = std::ranges::find_if_not(bytes, is_space);
  return first != bytes.end() && *first == std::byte{'{'};
}

void check_vocabulary(size_t n_tokens, size_t vocab, const Checkpoint& checkpoint,
                      Conversion& conversion) {
  if (n_tokens > vocab) {
    throw Error(checkpoint.tokenizer_name, "has " + std::to_string(n_tokens) +
                                               " pieces, the model embeds " +
                                               std::to_string(vocab) + " (vocab_size)");
  }
  if (n_tokens < vocab) {
    conversion.notes.push_back("the model embeds " + std::to_string(vocab - n_tokens) +
                               " tokens more than its tokenizer has; they are called [PAD" +
                               std::to_string(n_tokens) + "] and so on and never chosen");
  }
}

/// Writes what a kind of tokenizer has; its texts, and what it says itself of special tokens.
struct WrittenVocabulary {
  std::vector<std::string> texts;
  SpecialTokens special;
};

WrittenVocabulary write_sentencepiece(const Checkpoint& checkpoint, size_t vocab,
                                      Conversion& conversion) {
  auto tokenizer = parse_sentencepiece(checkpoint.tokenizer, checkpoint.tokenizer_name);
  const auto& added = checkpoint.added_tokens;
  check_vocabulary(std::max(tokenizer.pieces.size(), added.empty() ? 0 : added.rbegin()->first + 1),
                   vocab, checkpoint, conversion);
  add_tokens(tokenizer, added, vocab, checkpoint.tokenizer_name);
  write_tokenizer(tokenizer, checkpoint.tokenizer, conversion.writer);
  WrittenVocabulary written = {{}, special_tokens_of(tokenizer)};
  for (const auto& piece : tokenizer.pieces) written.texts.push_back(piece.text);
  return written;
}

WrittenVocabulary write_tokenizer_json(const Checkpoint& checkpoint, size_t vocab,
                                       Conversion& conversion) {
  TokenizerJson tokenizer = parse_tokenizer_json(checkpoint.tokenizer, checkpoint.tokenizer_name);
  check_vocabulary(tokenizer.pieces.size(), vocab, checkpoint, conversion);
  pad(tokenizer, vocab);
  write_tokenizer(tokenizer, conversion.writer);
  conversion.notes.insert(conversion.notes.end(), tokenizer.notes.begin(), tokenizer.notes.end());
  WrittenVocabulary written = {{}, special_tokens_of(tokenizer)};
  for (const auto& piece : tokenizer.pieces) written.texts.push_back(piece.text);
  return written;
}

void write_vocabulary(const Checkpoint& checkpoint, size_t vocab_size, Conversion& conversion) {
  if (checkpoint.tokenizer_name.empty()) return;
  const auto write = is_json(checkpoint.tokenizer) ? write_tokenizer_json : write_sentencepiece;
  const auto [texts, special] = write(checkpoint, vocab_size, conversion);
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  GgufWriter& writer = conversion.writer;
  write_special_tokens(resolve(checkpoint.token_settings, views, special, conversion.notes),
                       writer);
  if (!checkpoint.chat_template.empty()) {
    writer.add("tokenizer.chat_template", std::string_view(checkpoint.chat_template));
  }
}

}  // namespace

Conversion plan_conversion(const Checkpoint& checkpoint, const Quantization& quantization,
                           const NameRules& rules) {
  Config config = checkpoint.config;
  Conversion conversion;
  const std::vector<Named> tensors = apply_rules(checkpoint, rules, conversion.skipped);
  const NameMap map = name_map(checkpoint, tensors);
  FoundTensors found = match_names(checkpoint, tensors, map);
  check_ties(config, found, conversion);
  write_config(config, conversion.writer);
  write_quantization(quantization, conversion.writer);
  write_vocabulary(checkpoint, config.vocab_size, conversion);
  const bool pairs_differ = !config.half_split && !checkpoint.adjacent_pairs;
  for (const WeightSpec& spec : weight_specs(config)) {
    const auto at = found.find(spec.name);
    if (at == found.end()) {
      throw Error(checkpoint.path,
                  "tensor '" + map.source_of(spec.name) + "' is missing, wanted " +
                      bracketed(spec.shape()) +
                      (spec.role == Role::output ? "; or is tie_word_embeddings true?" : ""));
    }
    const Found& weight = at->second;
    const bool stays = weight.transform == Transform::rotated && !pairs_differ;
    std::vector<TransformedTensor> sources = sources_of(
        spec, weight, stays ? Transform::none : weight.transform, config, checkpoint.path, map);
    const std::string source_name =
        weight.by_expert ? map.source_of(spec.name) : weight.first().name;
    std::string where = checkpoint.path + ": tensor '" + source_name + "'";
    const DType wanted = quantization.wanted(spec, config);
    const DType written = storable(wanted, spec.cols);
    std::string from = sources[0].source().type_name;
    const size_t rows = spec.rows / sources.size();  // of each
    const auto read_row = [rows, sources = std::move(sources)](size_t r, std::span<float> row) {
      sources[r / rows].read_row(r % rows, row);
    };
    plan_tensor(conversion, {spec, std::move(from), std::move(where), wanted, written, read_row});
    found.erase(at);
  }
  if (!found.empty()) {
    const Source& left = found.begin()->second.first();
    throw Error(checkpoint.path, "tensor '" + left.name + "' " + bracketed(left.tensor->shape) +
                                     " belongs to no part of the model that config.json describes");
  }
  return conversion;
}

void plan_tensor(Conversion& conversion, PlannedTensor tensor) {
  const WeightSpec& spec = tensor.spec;
  conversion.writer.add_tensor(spec.name, tensor.type, spec.shape());
  conversion.tensors.push_back(std::move(tensor));
}

bool write_conversion(const Conversion& conversion, const fs::path& path,
                      const ConversionProgress& progress, size_t n_threads) {
  TensorEncoder encoder(n_threads);
  OutputFile out(path);
  conversion.writer.begin(out);
  for (const PlannedTensor& tensor : conversion.tensors) {
    const WeightSpec& spec = tensor.spec;
    const auto go_on = [&](uint64_t done) { return !progress || progress(done, spec.name); };
    if (tensor.read_row == nullptr) {
      if (!go_on(out.size())) return false;
      out.write(tensor.data);
    } else if (!encoder.write(spec.rows, spec.cols, tensor.type, tensor.where, tensor.read_row,
                              go_on, out)) {
      return false;
    }
    conversion.writer.pad(out);
  }
  out.commit();
  return true;
}

}  // namespace vga
