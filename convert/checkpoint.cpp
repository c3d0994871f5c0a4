#include "checkpoint.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "checkpoint_files.h"
#include "config_json.h"
#include "llama2c.h"
#include "safetensors.h"
#include "strict_json.h"
#include "torch_state.h"
#include "vga/error.h"

namespace vga {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Shards: the index says which file holds which tensor, and must be right about all of them.
void read_shards(Checkpoint& checkpoint, const fs::path& index) {
  const auto where = parse_safetensors_index(open_json(checkpoint.files, index), index.string());
  std::map<std::string, size_t> shards;  // tensors the index expects in each
  for (const auto& [tensor, shard] : where) ++shards[shard];
  for (const auto& [shard, n_expected] : shards) {
    const fs::path path = index.parent_path() / shard;
    auto tensors = parse_weights(open_file(checkpoint.files, path), path);
    for (const auto& [name, tensor] : tensors) {
      const auto expected = where.find(name);
      if (expected == where.end() || expected->second != shard) {
        throw Error(path.string(),
                    "tensor '" + name + "': the index has it " +
                        (expected == where.end() ? "nowhere" : "in " + expected->second));
      }
    }
    // Every tensor here is one the index expects here, so equal counts mean equal sets.
    if (tensors.size() != n_expected) {
      const auto missing =
          std::ranges::find_if(where, [&, name = std::string_view(shard)](const auto& entry) {
            return entry.second == name && !tensors.contains(entry.first);
          });
      throw Error(path.string(), "tensor '" + missing->first +
                                     "': the index has it in this file, "
                                     "it is not there");
    }
    checkpoint.tensors.merge(tensors);
  }
}

void read_weights(Checkpoint& checkpoint, const fs::path& path) {
  if (path.extension() == ".json") return read_shards(checkpoint, path);
  checkpoint.tensors = parse_weights(open_file(checkpoint.files, path), path);
}

/// What training programs leave beside the weights, under the names that they give it.
bool is_other_state(const fs::path& file) {
  const std::string name = file.filename().string();
  for (const char* start :
       {"optimizer", "scheduler", "rng_state", "scaler", "training_args", "random_states"}) {
    if (name.starts_with(start)) return true;
  }
  return false;
}

bool is_weights_file(const fs::path& file) {
  const fs::path extension = file.extension();
  return (extension == ".safetensors" || extension == ".pt" || extension == ".pth" ||
          extension == ".ckpt" || extension == ".bin") &&
         !is_other_state(file);
}

/// The file in a checkpoint folder that holds the weights, or says where they are.
fs::path find_weights(const fs::path& folder) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                           "pytorch_model.bin.index.json", "model.pt", "model.pth", "model.bin"}) {
    if (is_there(folder / name)) return folder / name;
  }
  if (is_there(folder / "adapter_config.json")) {
    throw Error(folder.string(),
                "holds an adapter, not a model; --base MODEL.gguf makes a GGUF file of it for that "
                "model");
  }
  std::vector<fs::path> found;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(folder, failure)) {
    if (is_weights_file(entry.path())) found.push_back(entry.path());
  }
  if (failure) throw Error(folder.string(), "cannot be listed: " + failure.message());
  if (found.size() == 1) return found[0];
  if (found.size() > 1) {
    throw Error(folder.string(), "has " + std::to_string(found.size()) +
                                     " files of weights; give the one to convert instead of the "
                                     "folder");
  }
  throw Error(folder.string(),
              "has no weights: wanted model.safetensors or pytorch_model.bin, the .index.json of "
              "one of them, or one .pt, .pth, .ckpt or .bin file");
}

/// GGUF has RoPE's factors as tensors, so they become some here.
void add_rope_tensor(Checkpoint& checkpoint, const char* name, std::vector<float> factors) {
  const auto& values = checkpoint.values.emplace_back(std::move(factors));
  checkpoint.rope_tensors[name] = {"config",
                                   DType::f32,
                                   {values.size()},
                                   {1},
                                   reinterpret_cast<const std::byte*>(values.data())};
}

void read_config_json(Checkpoint& checkpoint, const fs::path& path) {
  ConfigJson parsed = parse_config_json(open_json(checkpoint.files, path), path.string());
  checkpoint.model_type = parsed.model_type;
  checkpoint.config = std::move(parsed.config);
  if (checkpoint.config.rope_factors == RopeFactors::fixed) {
    add_rope_tensor(checkpoint, "rope_freqs.weight", std::move(parsed.rope_factors));
  } else if (checkpoint.config.rope_factors == RopeFactors::by_context) {
    add_rope_tensor(checkpoint, "rope_factors_short.weight", std::move(parsed.rope_factors));
    add_rope_tensor(checkpoint, "rope_factors_long.weight", std::move(parsed.rope_factors_long));
  }
}

/// tokenizer_config.json holds the template as a string, or several as {name, template}.
std::string template_in(const json& config, const std::string& where) {
  const auto found = config.is_object() ? config.find("chat_template") : config.end();
  if (found == config.end() || found->is_null()) return {};
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const json& entry : *found) {
      const bool named = entry.is_object() && entry.contains("name") && entry.contains("template");
      if (named && entry["name"] == "default" && entry["template"].is_string()) {
        return entry["template"].get<std::string>();
      }
    }
  }
  throw Error(where, "key 'chat_template': wanted a string, found " + describe_json(*found));
}

/// The JSON value in `file`, if there is such a file.
std::optional<json> read_json(Checkpoint& checkpoint, const fs::path& file) {
  if (!is_there(file)) return std::nullopt;
  return parse_python_json(open_json(checkpoint.files, file), file.string());
}

/// How texts begin and end, tokens that are added, and how a chat is written.
void read_tokenizer_settings(Checkpoint& checkpoint, const fs::path& folder) {
  TokenSettings& settings = checkpoint.token_settings;
  const fs::path tokenizer_config = folder / "tokenizer_config.json";
  if (const auto file = read_json(checkpoint, tokenizer_config)) {
    settings.read_tokenizer_config(*file, tokenizer_config.string());
    read_added_tokens_decoder(*file, tokenizer_config.string(), checkpoint.added_tokens);
    checkpoint.chat_template = template_in(*file, tokenizer_config.string());
  }
  const fs::path added_tokens = folder / "added_tokens.json";
  if (const auto file = read_json(checkpoint, added_tokens)) {
    read_added_tokens_json(*file, added_tokens.string(), checkpoint.added_tokens);
  }
  for (const char* name : {"generation_config.json", "config.json"}) {
    const fs::path path = folder / name;
    if (const auto file = read_json(checkpoint, path)) settings.read_config(*file, path.string());
  }
  if (const fs::path path = folder / "chat_template.jinja"; is_there(path)) {
    checkpoint.chat_template = without_byte_order_mark(as_text(open_json(checkpoint.files, path)));
  }
}

void read_tokenizer_file(Checkpoint& checkpoint, const fs::path& folder, const fs::path& given) {
  const fs::path json_file = folder / "tokenizer.json";
  fs::path path = given.empty() ? folder / "tokenizer.model" : given;
  if (given.empty() && !is_there(path)) path = json_file;
  if (given.empty() && !is_there(path)) return;  // a model of bare token ids
  checkpoint.tokenizer = open_file(checkpoint.files, path);
  if (given.empty() && looks_like_tiktoken(as_text(checkpoint.tokenizer)) && is_there(json_file)) {
    path = json_file;
    checkpoint.tokenizer = open_file(checkpoint.files, path);
  }
  checkpoint.tokenizer_name = path.string();
  refuse_foreign_tokenizer(as_text(checkpoint.tokenizer), checkpoint.tokenizer_name);
}

/// What people would call the model: the folder's name, or the file's without its extension.
/// Hugging Face's cache has models--OWNER--NAME/snapshots/COMMIT, where the files are links.
std::string name_of(const fs::path& path, bool is_folder) {
  std::error_code ignored;
  fs::path full = fs::absolute(path, ignored).lexically_normal();
  if (full.filename().empty()) full = full.parent_path();
  const fs::path folder = is_folder ? full : full.parent_path();
  const std::string model = folder.parent_path().parent_path().filename().string();
  if (folder.parent_path().filename() == "snapshots" && model.starts_with("models--")) {
    return model.substr(model.rfind("--") + 2);
  }
  return (is_folder ? full.filename() : full.stem()).string();
}

bool is_llama2c(const fs::path& weights) {
  if (weights.extension() == ".safetensors" || weights.extension() == ".json") return false;
  const MappedFile file(weights);
  refuse_lfs_pointer(file.bytes(), weights.string());
  return !looks_like_torch(file.bytes());
}

}  // namespace

Checkpoint open_checkpoint(const fs::path& path, const fs::path& tokenizer) {
  Checkpoint checkpoint;
  checkpoint.path = path.string();
  std::error_code ignored;  // opening the file tells what is wrong with the path
  const bool is_folder = fs::is_directory(path, ignored);
  const fs::path weights = is_folder ? find_weights(path) : path;
  const fs::path folder = weights.parent_path();
  if (!is_folder && is_llama2c(weights)) {
    auto model = parse_llama2c(open_file(checkpoint.files, weights), weights.string());
    checkpoint.config = model.config;
    checkpoint.tensors = std::move(model.tensors);
    checkpoint.adjacent_pairs = true;
  } else {
    read_weights(checkpoint, weights);
    read_config_json(checkpoint, folder / "config.json");
    read_tokenizer_settings(checkpoint, folder);
  }
  read_tokenizer_file(checkpoint, folder, tokenizer);
  checkpoint.config.model_name = name_of(path, is_folder);
  return checkpoint;
}

}  // namespace vga
