#include "conversation.h"

#include <chrono>

namespace vga {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Conversation::Conversation(const Model& model, const SessionOptions& session,
                           const SamplerOptions& sampler, std::optional<ChatFormat> format)
    : model_(&model), session_(model, session), sampler_(sampler), format_(format) {}

/// The tokens that stand between the end of the last answer and the beginning of the next.
std::vector<Token> Conversation::render(const std::string& user) const {
  const bool first = turns_.empty();
  std::vector<Tokenizer::Part> parts;
  if (format_) {
    if (!first) parts.push_back(render_end(*format_));
    for (Tokenizer::Part& part : render_turn(*format_, first, system_, user)) {
      parts.push_back(std::move(part));
    }
  } else {
    parts.push_back({user, Tokenizer::Special::as_text});
  }
  const Tokenizer& tokenizer = model_->tokenizer();
  std::vector<Token> tokens = tokenizer.encode(parts);
  if (first && tokenizer.adds_bos() && tokenizer.bos())
    tokens.insert(tokens.begin(), *tokenizer.bos());
  return tokens;
}

Conversation::Answer Conversation::ask(const std::string& user, size_t max_tokens,
                                       const std::function<void(std::string_view)>& on_text,
                                       const std::function<bool()>& keep_going) {
  const Tokenizer& tokenizer = model_->tokenizer();
  const std::vector<Token> prompt = render(user);
  Answer answer;
  answer.prompt_tokens = prompt.size();
  auto start = Clock::now();
  // Without a progress callback the prompt goes in whole or, when it does not fit, not at all.
  std::span<const float> logits = session_.prefill(prompt);
  for (const Token token : prompt) sampler_.accept(token);
  answer.prefill_seconds = seconds_since(start);

  StreamDecoder decoder(tokenizer, !format_);
  const auto emit = [&](const std::string& text) {
    answer.text += text;
    if (!text.empty()) on_text(text);
  };
  start = Clock::now();
  while (answer.tokens < max_tokens && keep_going()) {
    if (session_.length() == static_cast<int64_t>(session_.context())) {
      answer.context_full = true;
      break;
    }
    const Token token = sampler_.sample(logits);
    if (tokenizer.is_end(token)) break;  // the next turn's render_end() feeds it
    sampler_.accept(token);
    emit(decoder.add(token));
    logits = session_.decode(token);
    ++answer.tokens;
  }
  emit(decoder.finish());
  answer.decode_seconds = seconds_since(start);
  turns_.push_back({user, answer.text});
  return answer;
}

void Conversation::clear() {
  session_.truncate(0);
  turns_.clear();
}

void Conversation::set_system(const std::string& system) {
  if (!format_) {
    throw Error("system prompt", "this model has no chat format, so there is no place for one");
  }
  clear();
  system_ = system;
}

void Conversation::replay(const std::string& system, const std::vector<Turn>& turns) {
  if (system.empty()) {
    system_.clear();
  } else {
    set_system(system);
  }
  clear();
  try {
    for (const Turn& turn : turns) {
      std::vector<Token> tokens = render(turn.user);
      const std::vector<Token> answer = model_->tokenizer().encode(turn.answer);
      tokens.insert(tokens.end(), answer.begin(), answer.end());
      session_.prefill(tokens);
      turns_.push_back(turn);
    }
  } catch (const ContextFull&) {
    clear();
    throw;
  }
}

}  // namespace vga
