#include "vga/conversation.h"

#include <algorithm>

#include "base/clock.h"
#include "base/prefix.h"
#include "vga/thoughts.h"

namespace vga {

Conversation::Conversation(const Model& model, const SessionOptions& session,
                           const SamplerOptions& sampler, std::optional<ChatTemplate> chat_template,
                           bool keeps_opening)
    : model_(&model),
      options_(session),
      keeps_opening_(keeps_opening && chat_template && session.window > 0),
      sampler_(sampler),
      chat_(std::move(chat_template)),
      start_(std::time(nullptr)),
      own_system_(chat_ ? chat_->own_system_prompt() : "") {
  start_over(own_system_);
}

bool Conversation::begins_with_thought() const {
  if (!chat_) return false;
  return opens_thought(chat_->render(messages(system_, {}, "y"), {.now = start_}));
}

/// These turns, and `user` as the next.
std::vector<ChatMessage> Conversation::messages(const std::string& system,
                                                const std::deque<Turn>& turns,
                                                const std::string& user) const {
  std::vector<ChatMessage> list;
  // An empty one keeps a template from saying its own.
  if (!system.empty() || !own_system_.empty()) list.push_back({"system", system});
  for (const Turn& turn : turns) {
    list.push_back({"user", turn.user});
    list.push_back({"assistant", turn.answer});
  }
  list.push_back({"user", user});
  return list;
}

/// Up to the answer of the last message if that is a user's, else to the end.
std::vector<Token> Conversation::encode(std::span<const ChatMessage> messages) const {
  const bool answer_follows = !messages.empty() && messages.back().role == "user";
  return chat_->encode(messages, model_->tokenizer(), start_, answer_follows);
}

/// How many of a conversation's tokens stand before the words of message number `user`. A
/// vocabulary may join a marker and a word into one token, so this is what stays the same with
/// other words.
size_t Conversation::words_begin(std::span<const Token> tokens, std::vector<ChatMessage> messages,
                                 size_t user) const {
  std::string& words = messages[user].content;
  words = words.starts_with('x') ? "y" : "x";
  return common_prefix(tokens, encode(messages));
}

/// A text without a template goes on.
Conversation::Prompt Conversation::continuation(const std::string& user) const {
  const Tokenizer& tokenizer = model_->tokenizer();
  const int64_t length = session_->length();
  Prompt prompt{.tokens = length == 0 ? tokenizer.encode_prompt(user) : tokenizer.encode(user),
                .position = length};
  if (prompt.tokens.empty()) throw Error("message", "is empty, wanted at least one token");
  return prompt;
}

Conversation::Prompt Conversation::prompt_for(const std::string& user) const {
  if (!chat_) return continuation(user);
  std::vector<ChatMessage> list = messages(system_, turns_, user);
  const size_t first = list[0].role == "system" ? 1 : 0;
  Prompt prompt{.tokens = encode(list)};
  prompt.words = words_begin(prompt.tokens, list, list.size() - 1);
  // Kept tokens that are not the opening know of no marker, so a turn brings its own.
  const auto before = std::span(list).first(list.size() - 1);
  prompt.begin = keeps_opening_   ? prompt.words
                 : turns_.empty() ? 0
                                  : common_prefix(prompt.tokens, encode(before));
  // The record begins with the first turn in view, so not with the tokens before that.
  size_t skipped = 0;
  if (record_begin_ > 0) {
    skipped = words_begin(prompt.tokens, list, first) - (prompt.words - prompt.begin);
  }
  const std::span<const Token> in_record = std::span(prompt.tokens).subspan(skipped);
  // The last one is read in any case: an answer needs its logits.
  prompt.known = std::min(skipped + common_prefix(record_, in_record), prompt.tokens.size() - 1);
  prompt.position = record_begin_ - static_cast<int64_t>(skipped);
  return prompt;
}

/// Takes the session back to what it knows of the prompt, or further where it must. Where a window
/// has slid too far for that, it reads the whole view anew.
void Conversation::rewind(Prompt& prompt, const std::string& user) {
  const int64_t length = go_back(prompt.position + static_cast<int64_t>(prompt.known));
  if (length >= prompt.position && (length > 0 || prompt.position == 0)) {
    prompt.known = static_cast<size_t>(length - prompt.position);
    return;
  }
  go_back(0);
  prompt.known = 0;
  prompt.position = 0;
  const std::vector<ChatMessage> list = messages(system_, turns_, user);
  const size_t first = list[0].role == "system" ? 1 : 0;
  for (size_t i = 0; i < turns_.size(); ++i) {
    const size_t words = words_begin(prompt.tokens, list, first + 2 * i);
    const size_t marker = std::min(words, prompt.words - prompt.begin);
    begins_[i] = static_cast<int64_t>(words - marker);
  }
}

/// An empty session with room for what is to be kept.
void Conversation::start_over(const std::string& system) {
  SessionOptions options = options_;
  if (keeps_opening_) {
    const std::vector<ChatMessage> list = messages(system, {}, "y");
    options.keep = words_begin(encode(list), list, list.size() - 1);
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
  turns_.clear();
  begins_.clear();
  forgotten_turns_ = 0;
  record_.clear();
  record_begin_ = 0;
  if (session_ && session_->keep() == options.keep) {
    session_->truncate(0);
  } else {
    const std::optional<size_t> kept = session_ ? std::optional(session_->keep()) : std::nullopt;
    session_.reset();  // its memory first
    try {
      session_.emplace(*model_, options);
    } catch (...) {
      if (!kept) throw;
      options.keep = *kept;
      session_.emplace(*model_, options);
      throw;
    }
  }
  system_ = system;
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
    if (!by_turns()) continue;
    const auto gone = std::min<int64_t>(begins_.front() - record_begin_, std::ssize(record_));
    record_.erase(record_.begin(), record_.begin() + gone);
    record_begin_ = begins_.front();
  }
  if (!by_turns()) return true;
  session_->forget(begins_.front());
  return std::max(begins_.front(), keep) >= first;
}

/// False if `keep_going` ended it before all tokens were read.
bool Conversation::read(std::span<const Token> tokens, const std::function<bool()>& keep_going) {
  if (tokens.empty()) return true;
  size_t done = 0;
  session_->prefill(tokens, 0, [&](size_t n) {
    done = n;
    return keep_going();
  });
  if (chat_)
    record_.insert(record_.end(), tokens.begin(),
                   tokens.begin() + static_cast<std::ptrdiff_t>(done));
  return done == tokens.size();
}

/// As Session has it.
int64_t Conversation::go_back(int64_t length) {
  length = session_->go_back(length, snapshots_);
  if (length == 0) record_begin_ = 0;
  record_.resize(
      static_cast<size_t>(std::clamp<int64_t>(length - record_begin_, 0, std::ssize(record_))));
  return length;
}

/// Cuts the text to its length before the last turn, of which nothing else is left.
void Conversation::take_back(int64_t length) {
  // With a template the next turn finds what is to be read anew.
  if (go_back(length) < length && !chat_) start_over(system_);
}

/// Feeds what stands before an answer and enters the turn. If `keep_going` ended that, the turn is
/// taken back and the prompt has no tokens. Throws ContextFull before anything is changed.
Conversation::Prompt Conversation::begin_turn(const std::string& user,
                                              const std::function<bool()>& keep_going) {
  Prompt prompt = prompt_for(user);
  const auto at = [&](size_t i) { return prompt.position + static_cast<int64_t>(i); };
  const int64_t unknown = session_->length() - at(prompt.known);
  const size_t room = by_turns() ? session_->context() - session_->keep()
                                 : static_cast<size_t>(session_->room() + unknown);
  const size_t needed = prompt.tokens.size() - (by_turns() ? prompt.begin : prompt.known);
  if (needed > room) {
    throw ContextFull("the message takes " + std::to_string(needed) + " tokens, the " +
                      (session_->slides() ? "window" : "context") + " has room for " +
                      std::to_string(room));
  }
  if (chat_) rewind(prompt, user);
  const int64_t length = session_->length();
  snapshots_ = {session_->snapshot()};
  const std::span<const Token> tokens(prompt.tokens);
  // The rest of the last turn belongs to that one.
  const size_t begin = std::max(prompt.begin, prompt.known);
  if (!turns_.empty()) make_room(at(begin));
  bool good = read(tokens.subspan(prompt.known, begin - prompt.known), keep_going);
  if (good) {
    turns_.push_back({user, ""});
    begins_.push_back(at(prompt.begin));
    make_room(at(tokens.size()));
    size_t asks = begin;
    if (!session_->rewinds() && begin + asking_tokens < tokens.size()) {
      asks = tokens.size() - asking_tokens;
      good = read(tokens.subspan(begin, asks - begin), keep_going);
      if (good) snapshots_.push_back(session_->snapshot());
    }
    good = good && read(tokens.subspan(asks), keep_going);
    if (!good) {
      turns_.pop_back();
      begins_.pop_back();
    }
  }
  if (!good) {
    take_back(length);
    prompt.tokens.clear();
  }
  return prompt;
}

Conversation::Answer Conversation::ask(const std::string& user, size_t max_tokens,
                                       const std::function<void(std::string_view)>& on_text,
                                       const std::function<bool()>& keep_going) {
  const Tokenizer& tokenizer = model_->tokenizer();
  Answer answer;
  auto start = Clock::now();
  const Prompt prompt = begin_turn(user, keep_going);
  if (prompt.tokens.empty()) {
    answer.taken_back = true;
    return answer;
  }
  answer.prompt_tokens = prompt.tokens.size() - prompt.known;
  for (const Token token : std::span(prompt.tokens).subspan(prompt.words)) sampler_.accept(token);
  session_->wait();
  answer.prefill_seconds = seconds_since(start);

  StreamDecoder decoder(tokenizer, !chat_);
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
    if (tokenizer.is_end(token)) break;  // the template says it in the next turn
    sampler_.accept(token);
    emit(decoder.add(token));
    session_->append(token);
    if (chat_) record_.push_back(token);
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
  if (!chat_) {
    throw Error("system prompt", "this model has no chat format, so there is no place for one");
  }
  start_over(system);
}

/// Continues the text with a saved answer; false if `keep_going` ended that.
bool Conversation::read_answer(const std::string& text, const std::function<bool()>& keep_going) {
  const std::vector<Token> tokens = model_->tokenizer().encode(text);
  if (!make_room(session_->length() + std::ssize(tokens))) {
    throw ContextFull("a turn of the saved conversation is longer than the " +
                      std::string(session_->slides() ? "window" : "context has room for"));
  }
  return read(tokens, keep_going);
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
      const bool begun = !begin_turn(turn.user, keep_going).tokens.empty();
      // With a template the next turn brings the answer.
      if (!begun || (!chat_ && !read_answer(turn.answer, keep_going))) {
        clear();
        return false;
      }
      turns_.back().answer = turn.answer;
    }
  } catch (...) {
    clear();
    throw;
  }
  return true;
}

}  // namespace vga
