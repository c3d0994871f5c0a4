/// vga-chat: talk with a model, or write a story with it.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iostream>

#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "chat/line_editor.h"
#include "common/chat_flags.h"
#include "common/program.h"
#include "common/terminal.h"
#include "vga/conversation.h"
#include "vga/thoughts.h"

namespace {

constexpr const char* help_text =
    "/help            this\n"
    "/clear           forget the conversation\n"
    "/system TEXT     set the system prompt and start over; without TEXT show it\n"
    "/save FILE       write the conversation to a file, as far as the model sees it\n"
    "/load FILE       go on with a saved one\n"
    "/stats           speed, tokens, memory\n"
    "/exit            leave; Ctrl-D does too\n"
    "Ctrl-C stops an answer and keeps what is there; twice at the prompt it leaves. A line that\n"
    "ends in \\ goes on in the next one; \"\"\" opens and closes a longer text, which may begin\n"
    "with /; a paste of many lines stays one message.\n";

struct Flags {
  vga::ModelFlags model;
  vga::SamplerFlags sampler;
  std::optional<std::string> chat_template;
  std::optional<std::string> system;
  int64_t n_predict = 0;  // 0: the default, -1: no limit
};

/// Sums over all answers, for /stats.
struct Stats {
  size_t prompt_tokens = 0;
  size_t tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

class Chat {
 public:
  Chat(const vga::Model& model, vga::Conversation conversation, size_t max_answer)
      : model_(model),
        conversation_(std::move(conversation)),
        max_answer_(max_answer),
        on_terminal_(vga::is_terminal(STDIN_FILENO) && vga::is_terminal(STDOUT_FILENO)),
        colour_(vga::wants_colour(STDOUT_FILENO) && on_terminal_),
        notice_colour_(vga::wants_colour(STDERR_FILENO)) {}

  /// Whether all went well, or a person could see what did not.
  bool run() {
    greet();
    vga::LineEditor editor(history_file());
    while (const auto message = editor.read("> ")) {
      if (message->text.empty()) continue;
      vga::clear_interrupt();
      try {
        if (message->text.starts_with('/') && !message->is_block) {
          if (!obey(message->text)) break;
        } else {
          answer(message->text);
        }
      } catch (const vga::ContextFull& error) {
        fail(std::string(error.what()) + "; " + more_room());
      } catch (const vga::DeviceLost&) {
        std::cout << std::endl;  // the answer ends here
        throw;
      } catch (const vga::NotFinite&) {
        std::cout << std::endl;
        throw;
      } catch (const vga::Error& error) {
        fail(error.what());
      }
      vga::check_stdout();
      if (vga::terminated() || (vga::interrupted() && !on_terminal_)) break;
      // Ctrl-C in the middle of an answer has done its work.
      vga::clear_interrupt();
    }
    return !failed_ || vga::is_terminal(STDIN_FILENO);
  }

 private:
  static std::filesystem::path environment(const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
  }

  static std::filesystem::path history_file() {
    std::filesystem::path folder = environment("XDG_STATE_HOME");
    if (!folder.is_absolute()) {  // then the standard that it is from says to ignore it
      const std::filesystem::path home = environment("HOME");
      if (home.empty()) return {};
      folder = home / ".local/state";
    }
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    return error ? std::filesystem::path() : folder / "vga-chat-history";
  }

  /// A remark of the program, not of the model.
  void notice(const std::string& text) const {
    std::cout << std::flush;
    std::cerr << (notice_colour_ ? "\x1b[2m" : "") << vga::printable(text)
              << (notice_colour_ ? "\x1b[0m" : "") << std::endl;
  }

  /// A notice of what a script cannot do anything about but end with an error.
  void fail(const std::string& text) {
    failed_ = true;
    notice(text);
  }

  /// What helps a message that does not fit.
  std::string more_room() const {
    if (conversation_.session().slides()) return "a longer --window has room for it";
    return conversation_.turns().empty() ? "it is the first, only a longer context (-c) has room"
                                         : "/clear starts over";
  }

  static bool keep_going() { return !vga::interrupted() && std::cout.good(); }

  void greet() const {
    const vga::Config& config = model_.config();
    const std::string& name = config.model_name.empty() ? model_.file_name() : config.model_name;
    const vga::ChatTemplate* chat = conversation_.chat_template();
    const vga::Session& session = conversation_.session();
    notice(name + ", " + session.description() + (session.slides() ? ", window " : ", context ") +
           std::to_string(session.context()));
    notice(
        chat != nullptr
            ? (chat->name().empty() ? "a chat template"
                                    : "chat format " + std::string(chat->name())) +
                  (conversation_.system().empty() ? "" : ", a system prompt (/system shows it)") +
                  ", /help for commands"
            : "no chat template: what you write is continued as it stands, /help for commands");
  }

  /// stdout in the colour of answers, however one ends.
  struct AnswerColour {
    explicit AnswerColour(bool on) : on_(on) {
      if (on_) std::cout << "\x1b[36m";
    }
    AnswerColour(const AnswerColour&) = delete;
    AnswerColour& operator=(const AnswerColour&) = delete;
    ~AnswerColour() {
      if (on_) std::cout << "\x1b[0m" << std::flush;
    }
    bool on_;
  };

  vga::Conversation::Answer ask(const std::string& message) {
    const AnswerColour colour(colour_);
    vga::Thoughts thoughts(
        conversation_.begins_with_thought(),
        [&](std::string_view text, bool is_thought) { write(text, is_thought); });
    auto answer = conversation_.ask(
        message, max_answer_, [&](std::string_view text) { thoughts.add(text); }, keep_going);
    thoughts.finish();
    return answer;
  }

  /// A piece of an answer; what a model thinks before it is dim.
  void write(std::string_view text, bool is_thought) const {
    const bool dim = is_thought && colour_;
    std::cout << (dim ? "\x1b[2m" : "") << text << (dim ? "\x1b[22m" : "") << std::flush;
  }

  void answer(const std::string& message) {
    const auto answer = ask(message);
    std::cout << std::endl;
    stats_.prompt_tokens += answer.prompt_tokens;
    stats_.tokens += answer.tokens;
    stats_.prefill_seconds += answer.prefill_seconds;
    stats_.decode_seconds += answer.decode_seconds;
    if (vga::interrupted()) {
      notice(answer.taken_back ? "stopped; the message was not read to its end and does not count"
                               : "stopped");
    }
    if (answer.context_full) {
      fail(conversation_.session().slides() ? "this turn alone fills the window, so it ends here"
                                            : "the context is full; /clear starts over");
    }
    if (!said_that_it_forgets_ && conversation_.forgotten_tokens() > 0) {
      said_that_it_forgets_ = true;
      notice("the window is full: " + what_left() + "; /stats counts on");
    }
  }

  /// What the model no longer sees.
  std::string what_left() const {
    const size_t keep = conversation_.session().keep();
    const size_t turns = conversation_.forgotten_turns();
    const int64_t tokens = conversation_.forgotten_tokens();
    std::string text = tokens == 0 ? "nothing left it yet" : std::to_string(tokens) + " tokens ";
    if (turns > 0) text += "of " + std::to_string(turns) + (turns == 1 ? " turn " : " turns ");
    if (tokens > 0) text += "left it and are forgotten";
    if (keep > 0) text += ", the first " + std::to_string(keep) + " are kept";
    return text;
  }

  /// Runs a command; false to leave.
  bool obey(const std::string& line) {
    const size_t space = std::min(line.find_first_of(" \t"), line.size());
    const std::string command = line.substr(0, space);
    const std::string argument = space < line.size() ? line.substr(space + 1) : "";
    if (command == "/exit" || command == "/quit") return false;
    if (command == "/help") {
      std::cout << help_text << std::flush;
    } else if (command == "/clear") {
      conversation_.clear();
      notice("cleared");
    } else if (command == "/system") {
      set_system(argument);
    } else if (command == "/save") {
      save(file_named(command, argument));
    } else if (command == "/load") {
      load(file_named(command, argument));
    } else if (command == "/stats") {
      show_stats();
    } else {
      throw vga::Error(command, "no such command; /help lists them");
    }
    return true;
  }

  /// Without the spaces around it; ~/ is the home directory, as shells have it.
  static std::string file_named(const std::string& command, const std::string& argument) {
    constexpr const char* spaces = " \t";
    const size_t begin = argument.find_first_not_of(spaces);
    if (begin == std::string::npos) throw vga::Error(command, "wanted the name of a file");
    std::string name = argument.substr(begin, argument.find_last_not_of(spaces) - begin + 1);
    if (!name.starts_with("~/")) return name;
    const std::filesystem::path home = environment("HOME");
    if (home.empty()) throw vga::Error(name, "there is no home directory: HOME is not set");
    return home / name.substr(2);
  }

  void set_system(const std::string& text) {
    if (text.empty()) {
      notice(conversation_.system().empty() ? "no system prompt" : conversation_.system());
    } else {
      conversation_.set_system(text);
      notice("system prompt set, conversation cleared");
    }
  }

  void save(const std::string& file) const {
    nlohmann::ordered_json out = {{"model", model_.config().model_name},
                                  {"system", conversation_.system()},
                                  {"turns", nlohmann::ordered_json::array()}};
    for (const vga::Turn& turn : conversation_.turns()) {
      out["turns"].push_back({{"user", turn.user}, {"answer", turn.answer}});
    }
    vga::check_output(file, std::array{model_.file_name()});
    vga::OutputFile to(file);
    to.write(out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    to.commit();
    notice("saved " + std::to_string(conversation_.turns().size()) + " turns to " + file);
  }

  void load(const std::string& file) {
    std::string system;
    std::vector<vga::Turn> turns;
    try {
      const auto saved = nlohmann::json::parse(vga::read_text(file));
      system = saved.at("system").get<std::string>();
      for (const auto& turn : saved.at("turns")) {
        turns.push_back({turn.at("user").get<std::string>(), turn.at("answer").get<std::string>()});
      }
    } catch (const nlohmann::json::exception& error) {
      throw vga::Error(file, std::string("is no saved conversation: ") + error.what());
    }
    notice(conversation_.replay(system, turns, keep_going)
               ? "loaded " + std::to_string(turns.size()) + " turns"
               : "stopped; the conversation is empty");
  }

  void show_stats() const {
    const auto rate = [](size_t n, double seconds) {
      return vga::short_number(seconds > 0 ? static_cast<double>(n) / seconds : 0) + " tok/s";
    };
    const vga::Session& session = conversation_.session();
    notice((session.slides() ? "window " + std::to_string(session.context()) + ", " + what_left() +
                                   "; " + std::to_string(session.length()) + " tokens so far"
                             : "context " + std::to_string(session.length()) + " of " +
                                   std::to_string(session.context()) + " tokens") +
           ", cache " + vga::human_bytes(session.cache_bytes()) + "; read " +
           std::to_string(stats_.prompt_tokens) + " tokens at " +
           rate(stats_.prompt_tokens, stats_.prefill_seconds) + ", wrote " +
           std::to_string(stats_.tokens) + " at " + rate(stats_.tokens, stats_.decode_seconds));
  }

  const vga::Model& model_;
  vga::Conversation conversation_;
  size_t max_answer_;
  bool on_terminal_;
  bool colour_;         // of answers
  bool notice_colour_;  // which go to stderr
  bool said_that_it_forgets_ = false;
  bool failed_ = false;
  Stats stats_;
};

/// What the file's template says as the system prompt, where another one is used instead.
std::string system_prompt_in(const vga::Model& model) {
  if (model.chat_template().empty()) return {};
  try {
    return vga::ChatTemplate(model.chat_template(), model.file_name()).own_system_prompt();
  } catch (const vga::Error& error) {
    std::cerr << "note: " << error.what()
              << "; whether it has a system prompt is not known, --system gives one\n";
    return {};
  }
}

/// The conversation with the system prompt asked for, else the model's own.
vga::Conversation start(const Flags& flags, const vga::Model& model) {
  vga::Conversation conversation(model, flags.model.session, flags.sampler.resolve(),
                                 vga::choose_chat_template(model, flags.chat_template),
                                 !flags.model.keep_given);
  const vga::ChatTemplate* chat = conversation.chat_template();
  const bool replaced = chat != nullptr && flags.chat_template;
  const std::string_view missing =
      chat != nullptr ? chat->missing_marker(model.tokenizer()) : std::string_view();
  if (!missing.empty()) {
    std::cerr << "warning: chat format " << chat->name() << " marks turns with " << missing
              << ", which is no token of this model: it was trained on another format\n";
  }
  if (flags.system) {
    // Where there is no template, there is no place for one but none.
    if (chat != nullptr || !flags.system->empty()) conversation.set_system(*flags.system);
  } else if (replaced && conversation.system().empty()) {
    const std::string own = system_prompt_in(model);
    if (!own.empty()) conversation.set_system(own);
  }
  return conversation;
}

int chat(const Flags& flags) {
  const vga::Model model = flags.model.load();
  model.tokenizer();  // without one there is nothing to talk about
  vga::Conversation conversation = start(flags, model);
  // Plain continuation has no natural end of a turn: a paragraph or two is a good answer.
  const size_t by_default = conversation.chat_template() != nullptr ? SIZE_MAX : 120;
  vga::catch_interrupts();
  const size_t max_answer = flags.n_predict > 0   ? static_cast<size_t>(flags.n_predict)
                            : flags.n_predict < 0 ? SIZE_MAX
                                                  : by_default;
  const bool good = Chat(model, std::move(conversation), max_answer).run();
  if (vga::interrupted()) return vga::interrupted_status();
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Chat with a language model. With a model that has a chat template, turns are wrapped as it\n"
      "was trained to see them; any other model plainly continues what you write. In a pipe every\n"
      "line of stdin is one turn and stdout gets the answers alone; the status is 1 if one "
      "failed.\n\n"
      "  vga-chat -m stories.gguf\n"
      "  vga-chat -m assistant.gguf --system 'Answer in one sentence.'\n"
      "  vga-chat -m assistant.gguf --window 1024     # never ends: the oldest turns are "
      "forgotten\n"
      "  printf 'The fox\\n/exit\\n' | vga-chat -m stories.gguf --seed 1",
      "vga-chat");
  Flags flags;
  flags.model.add_to(app);
  flags.model.add_window_to(app, "the system prompt and what else stands before the first message");
  app.add_option("--chat-template", flags.chat_template,
                 "How turns are marked: a file with a Jinja template, none, or one of " +
                     vga::ChatTemplate::names() + " (default: the model's own template)")
      ->type_name("NAME|FILE");
  app.add_option(
         "--system", flags.system,
         "System prompt, '' for none (default: the one that the model's template has, if any)")
      ->type_name("TEXT");
  app.add_option("-n,--predict", flags.n_predict,
                 "Tokens of one answer at most, -1: no limit (default: that; 120 without a chat "
                 "template)")
      ->check(CLI::Range(int64_t{-1}, INT64_MAX))
      ->type_name("N");
  flags.sampler.add_to(app);
  return vga::run_program(app, argc, argv, [&] { return chat(flags); });
}
