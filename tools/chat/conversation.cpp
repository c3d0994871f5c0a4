#include "chat/conversation.h"

#include <algorithm>
#include <array>

#include "common/clock.h"

namespace vga {
namespace {

/// Length of the longest common beginning.
size_t common_prefix(std::span<const Token> a, std::span<const Token> b) {
  return static_cast<size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

}  // namespace

Conversation::Conversation(const Model& model, const SessionOptions& session,
                           const SamplerOptions& sampler, std::optional<ChatFormat> format,
                           bool keeps_opening)
    : model_(&model),
      options_(session),
      keeps_opening_(keeps_opening && format && session.window > 0),
      sampler_(sampler),
      format_(format) {
  start_over("");
}

/// The tokens of a turn from the end of the last answer to the beginning of the next.
std::vector<Token> Conversation::render(bool first, const std::string& system,
                                        const std::string& user) const {
  std::vector<Tokenizer::Part> parts;
  const Tokenizer& tokenizer = model_->tokenizer();
  const TextEnds ends = text_ends(tokenizer);
  if (format_) {
    if (!first) parts.push_back(render_end(*format_, ends));
    for (Tokenizer::Part& part : render_turn(*format_, ends, first, system, user)) {
      parts.push_back(std::move(part));
    }
  } else {
    parts.push_back({user, Tokenizer::Special::as_text});
  }
  std::vector<Token> tokens = tokenizer.encode(parts);
  if (first && tokenizer.adds_bos() && tokenizer.bos())
    tokens.insert(tokens.begin(), *tokenizer.bos());
  return tokens;
}

/// How many tokens of render() stand before the user's words. A vocabulary may join a marker and a
/// word into one token, so this is what stays the same with other words.
size_t Conversation::words_begin(bool first, const std::string& system,
                                 const std::string& user) const {
  const std::string other = user.starts_with('x') ? "y" : "x";
  return common_prefix(render(first, system, user), render(first, system, other));
}

/// An empty session with room for what is to be kept.
void Conversation::start_over(const std::string& system) {
  SessionOptions options = options_;
  if (keeps_opening_) {
    options.keep = words_begin(true, system, "y");
    if (options.keep >= options.window) {
      throw Error("system prompt", "takes " + std::to_string(options.keep) +
                                       " tokens, a window of " + std::to_string(options.window) +
                                       " has no room for turns behind it");
    }
  }
  if (session_ && session_->length() > 0) {
    // Nothing is a repetition any more. Another seed: what comes is not to be what came first.
    SamplerOptions sampler = sampler_.options();
    ++sampler.seed;
    sampler_ = Sampler(sampler);
  }
  if (session_ && session_->keep() == options.keep) {
    session_->truncate(0);
  } else {
    session_.reset();  // its memory first
    session_.emplace(*model_, options);
  }
  system_ = system;
  turns_.clear();
  begins_.clear();
  forgotten_turns_ = 0;
}

int64_t Conversation::forgotten_tokens() const {
  const auto keep = static_cast<int64_t>(session_->keep());
  if (by_turns()) return begins_.empty() ? 0 : std::max<int64_t>(0, begins_.front() - keep);
  if (!session_->slides()) return 0;
  return std::max<int64_t>(0, session_->length() + 1 - static_cast<int64_t>(session_->context()));
}

/// Lets the oldest turns go until the sequence may grow to n_tokens without a part of a turn in
/// view. False if the current turn, which stays, is too long for that by itself.
bool Conversation::make_room(int64_t n_tokens) {
  if (!session_->slides()) return n_tokens <= session_->length() + session_->room();
  const auto keep = static_cast<int64_t>(session_->keep());
  const int64_t first = n_tokens - (static_cast<int64_t>(session_->context()) - keep);
  // By turns, one must go before its beginning does; else once its end has.
  const auto oldest_goes = [&] {
    return by_turns() ? std::max(begins_[0], keep) < first : begins_[1] <= first;
  };
  while (begins_.size() > 1 && oldest_goes()) {
    begins_.pop_front();
    turns_.pop_front();
    ++forgotten_turns_;
  }
  if (!by_turns()) return true;
  session_->forget(begins_.front());
  return std::max(begins_.front(), keep) >= first;
}

/// False if `keep_going` ended it before all tokens were read.
bool Conversation::read(std::span<const Token> tokens, const std::function<bool()>& keep_going) {
  size_t done = 0;
  session_->prefill(tokens, 0, [&](size_t n) {
    done = n;
    return keep_going();
  });
  return done == tokens.size();
}

/// Cuts the text to its length before the last turn, of which nothing else is left.
void Conversation::take_back(int64_t length) {
  try {
    session_->truncate(length);
  } catch (const Error&) {
    start_over(system_);
  }
}

/// Feeds what stands before an answer and enters the turn; false if `keep_going` ended that, and
/// then it is taken back. Throws ContextFull before anything is changed.
bool Conversation::begin_turn(const std::string& user, std::span<const Token> prompt,
                              const std::function<bool()>& keep_going) {
  if (prompt.empty()) throw Error("message", "is empty, wanted at least one token");
  const int64_t length = session_->length();
  // Where the turn comes into view. Kept tokens that are not the opening know of no marker.
  size_t begin = 0;
  if (by_turns() && keeps_opening_) {
    begin = words_begin(length == 0, system_, user);
  } else if (by_turns() && length > 0) {
    const Tokenizer& tokenizer = model_->tokenizer();
    const Tokenizer::Part end = render_end(*format_, text_ends(tokenizer));
    begin = common_prefix(prompt, tokenizer.encode(std::array{end}));
  }
  const size_t room =
      by_turns() ? session_->context() - session_->keep() : static_cast<size_t>(session_->room());
  const size_t needed = by_turns() ? prompt.size() - begin : prompt.size();
  if (needed > room) {
    throw ContextFull("the message takes " + std::to_string(needed) + " tokens, the " +
                      (session_->slides() ? "window" : "context") + " has room for " +
                      std::to_string(room));
  }
  // The end of the last turn belongs to that one.
  if (begin > 0 && !read(prompt.first(begin), keep_going)) {
    take_back(length);
    return false;
  }
  turns_.push_back({user, ""});
  begins_.push_back(length + static_cast<int64_t>(begin));
  make_room(length + static_cast<int64_t>(prompt.size()));
  if (read(prompt.subspan(begin), keep_going)) return true;
  turns_.pop_back();
  begins_.pop_back();
  take_back(length);
  return false;
}

Conversation::Answer Conversation::ask(const std::string& user, size_t max_tokens,
                                       const std::function<void(std::string_view)>& on_text,
                                       const std::function<bool()>& keep_going) {
  const Tokenizer& tokenizer = model_->tokenizer();
  const std::vector<Token> prompt = render(session_->length() == 0, system_, user);
  Answer answer;
  answer.prompt_tokens = prompt.size();
  auto start = Clock::now();
  if (!begin_turn(user, prompt, keep_going)) {
    answer.taken_back = true;
    return answer;
  }
  for (const Token token : prompt) sampler_.accept(token);
  session_->wait();
  answer.prefill_seconds = seconds_since(start);

  StreamDecoder decoder(tokenizer, !format_);
  const auto emit = [&](const std::string& text) {
    answer.text += text;
    if (!text.empty()) on_text(text);
  };
  start = Clock::now();
  while (answer.tokens < max_tokens && keep_going()) {
    if (!make_room(session_->length() + 1)) {
      answer.context_full = true;
      break;
    }
    const Token token = session_->sample(sampler_);
    if (tokenizer.is_end(token)) break;  // the next turn's render_end() feeds it
    sampler_.accept(token);
    emit(decoder.add(token));
    session_->append(token);
    ++answer.tokens;
  }
  emit(decoder.finish());
  answer.decode_seconds = seconds_since(start);
  turns_.back().answer = answer.text;
  return answer;
}

void Conversation::clear() {
  start_over(system_);
}

void Conversation::set_system(const std::string& system) {
  if (!format_) {
    throw Error("system prompt", "this model has no chat format, so there is no place for one");
  }
  start_over(system);
}

bool Conversation::replay(const std::string& system, const std::vector<Turn>& turns,
                          const std::function<bool()>& keep_going) {
  if (system.empty()) {
    start_over("");
  } else {
    set_system(system);
  }
  try {
    for (const Turn& turn : turns) {
      if (!begin_turn(turn.user, render(session_->length() == 0, system_, turn.user), keep_going)) {
        clear();
        return false;
      }
      turns_.back().answer = turn.answer;
      const std::vector<Token> answer = model_->tokenizer().encode(turn.answer);
      if (!make_room(session_->length() + static_cast<int64_t>(answer.size()))) {
        throw ContextFull("a turn of the saved conversation is longer than the " +
                          std::string(session_->slides() ? "window" : "context has room for"));
      }
      if (!answer.empty() && !read(answer, keep_going)) {
        clear();
        return false;
      }
    }
  } catch (...) {
    clear();
    throw;
  }
  return true;
}

}  // namespace vga
