#pragma once

#include <string>
#include <utility>
#include <vector>

#include "probe/model_probe.h"

namespace vga {

/// A layer and a query head of it.
using HeadName = std::pair<size_t, size_t>;

/// One line per layer, and the figures of the whole model, for people.
std::string text_report(const Model& model, const ModelProbe& probe);
std::string json_report(const Model& model, const ModelProbe& probe);
/// A page of its own, which needs nothing from outside: attention maps of `shown`, with and without
/// the gate, value norms and gates over position, everything in tables.
std::string html_report(const Model& model, const ModelProbe& probe,
                        const std::vector<HeadName>& shown);

/// What a model is called: its name if it has one, or the file's.
std::string title_of(const Model& model);
/// "value, on outputs, per head", or "none".
std::string gate_in_words(const Config& config);

}  // namespace vga
