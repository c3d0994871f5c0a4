#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "gguf_image.h"
#include "vga/error.h"

namespace vga::test {

/// Runs `read`; the message of the Error it must throw.
template <class Read>
std::string message_of(Read&& read) {
  try {
    read();
  } catch (const Error& error) {
    std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  ADD_FAILURE() << "no Error";
  return {};
}

inline void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// A safetensors file.
inline std::string safetensors(const std::string& header, const std::string& data = {}) {
  return raw<uint64_t>(header.size()) + header + data;
}
inline std::string entry(const std::string& name, const std::string& dtype,
                         const std::string& shape, const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
         offsets + "}";
}
inline std::string repeated(const std::string& text, size_t n) {
  std::string out;
  while (n-- > 0) out += text;
  return out;
}

struct Bad {
  const char* name;  // of the row
  std::string bytes;
  const char* says;  // stands in the message
};

template <class Parse>
void expect_refused(const std::vector<Bad>& table, Parse&& parse) {
  for (const Bad& bad : table) {
    SCOPED_TRACE(bad.name);
    const std::string message = message_of([&] { parse(bytes_of(bad.bytes), "bad.file"); });
    EXPECT_TRUE(message.starts_with("bad.file")) << message;
    EXPECT_NE(message.find(bad.says), std::string::npos) << message;
    EXPECT_LT(message.size(), 600u);
  }
}

/// A config.json of a tiny model, "vga" or "llama".
inline nlohmann::json good_config(bool llama) {
  nlohmann::json config = {{"model_type", llama ? "llama" : "vga"},
                           {"hidden_size", 8},
                           {"intermediate_size", 40},
                           {"num_hidden_layers", 1},
                           {"num_attention_heads", 2},
                           {"num_key_value_heads", 1},
                           {"head_dim", 4},
                           {"vocab_size", 32},
                           {"max_position_embeddings", 16},
                           {"rms_norm_eps", 1e-5}};
  if (!llama) {
    config["attention_gate"] = {
        {"source", "value"}, {"placement", "output"}, {"granularity", "head"}, {"bias", true}};
  }
  return config;
}

}  // namespace vga::test
