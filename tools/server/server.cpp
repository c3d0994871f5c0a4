/// vga-server: answers many people at once, as OpenAI's API has it.

#include <algorithm>
#include <csignal>
#include <fstream>
#include <iostream>
#include <thread>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "common/chat_flags.h"
#include "common/program.h"
#include "common/text_flags.h"
#include "server/completions.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/router.h"
#include "vga/scheduler.h"

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

struct Flags {
  vga::ModelFlags model;
  vga::SamplerFlags sampler;
  std::optional<std::string> chat_template;
  std::string host = "127.0.0.1";
  uint16_t port = 8080;
  std::string alias;
  size_t queue = 64;
  size_t step_rows = 128;
  std::vector<std::string> api_keys;
  std::string api_key_file;
  std::vector<std::string> cors_origins;
  vga::http::Limits limits;
  double drain_seconds = 30;
};

/// The name under which clients see the model: the file's, without folder and ending.
std::string model_name(const Flags& flags) {
  return flags.alias.empty() ? std::filesystem::path(flags.model.file).stem().string()
                             : flags.alias;
}

std::vector<std::string> read_keys(const Flags& flags) {
  std::vector<std::string> keys = flags.api_keys;
  // An unset variable of a shell must not open the server to all.
  if (std::ranges::find(keys, "") != keys.end()) throw vga::Error("--api-key", "is empty");
  if (!flags.api_key_file.empty()) {
    std::istringstream lines(vga::read_text_file(flags.api_key_file));
    for (std::string line; std::getline(lines, line);) {
      if (line.ends_with('\r')) line.pop_back();
      if (!line.empty()) keys.push_back(line);
    }
    if (keys.empty()) throw vga::Error(flags.api_key_file, "wanted a key on each line, found none");
  }
  return keys;
}

/// The socket that systemd listens on for us, if it does; else a new one.
tcp::acceptor listen(asio::io_context& io, const Flags& flags) {
  constexpr int first_passed = 3;
  const char* pid = std::getenv("LISTEN_PID");
  if (pid != nullptr && std::to_string(::getpid()) == pid) {
    return {io, tcp::v4(), first_passed};
  }
  boost::system::error_code error;
  const auto address = asio::ip::make_address(flags.host, error);
  if (error) throw vga::Error("--host", "wanted an IP address, found '" + flags.host + "'");
  tcp::acceptor acceptor(io);
  const tcp::endpoint endpoint(address, flags.port);
  acceptor.open(endpoint.protocol());
  acceptor.set_option(tcp::acceptor::reuse_address(true));
  acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    throw vga::Error("--port", "cannot listen on " + flags.host + " port " +
                                   std::to_string(flags.port) + ": " + error.message());
  }
  return acceptor;
}

std::string url_of(const tcp::endpoint& endpoint) {
  const auto address = endpoint.address();
  const std::string host = address.is_v6() ? "[" + address.to_string() + "]" : address.to_string();
  return "http://" + host + ":" + std::to_string(endpoint.port());
}

/// Everything that there is once the model is.
struct Loaded {
  Loaded(const Flags& flags, vga::Metrics& metrics)
      : model(flags.model.load()),
        scheduler(model, {.session = flags.model.session,
                          .max_waiting = flags.queue,
                          .step_rows = flags.step_rows,
                          .on_step = [&metrics](size_t rows) { metrics.step(rows); }}),
        completions(model, scheduler, metrics,
                    vga::choose_chat_template(model, flags.chat_template), model_name(flags)) {}

  vga::Model model;
  vga::Scheduler scheduler;
  vga::Completions completions;
};

class Server {
 public:
  explicit Server(const Flags& flags)
      : flags_(flags),
        router_({.model_name = model_name(flags),
                 .api_keys = read_keys(flags),
                 .cors_origins = flags.cors_origins,
                 .sampler = flags.sampler.resolve(),
                 .has_seed = flags.sampler.has_seed()},
                metrics_),
        signals_(io_, SIGINT, SIGTERM) {}

  int run();

 private:
  void load();
  void on_signal();
  asio::awaitable<void> drain();
  asio::awaitable<void> all_answered(std::chrono::duration<double> limit);

  const Flags& flags_;
  vga::Metrics metrics_;
  vga::Router router_;
  asio::io_context io_{1};
  asio::signal_set signals_;
  std::optional<vga::http::Server> http_;
  std::unique_ptr<Loaded> loaded_;
  std::exception_ptr failure_;
  bool ending_ = false;
};

/// In a thread of its own, so that /health can say what goes on.
void Server::load() {
  try {
    auto loaded = std::make_unique<Loaded>(flags_, metrics_);
    asio::post(io_, [this, loaded = std::move(loaded)]() mutable {
      loaded_ = std::move(loaded);
      router_.open(loaded_->model, loaded_->scheduler, loaded_->completions);
      const vga::Scheduler& scheduler = loaded_->scheduler;
      std::cerr << vga::printable(loaded_->model.description()) << ", " << scheduler.description()
                << "; " << scheduler.n_sequences() << " sequences of "
                << (scheduler.slides() ? "a window of " : "") << scheduler.context()
                << " tokens, cache " << vga::human_bytes(scheduler.cache_bytes()) << std::endl;
    });
  } catch (...) {
    asio::post(io_, [this, failure = std::current_exception()] {
      failure_ = failure;
      io_.stop();
    });
  }
}

void Server::on_signal() {
  signals_.async_wait([this](const boost::system::error_code& error, int) {
    if (error) return;
    if (ending_) ::_exit(1);  // asked twice
    ending_ = true;
    asio::co_spawn(io_, drain(), asio::detached);
    on_signal();
  });
}

/// Lets what runs come to its end, for a while; what does not is told so.
asio::awaitable<void> Server::drain() {
  http_->stop();
  if (loaded_) loaded_->scheduler.drain();
  co_await all_answered(std::chrono::duration<double>(flags_.drain_seconds));
  if (loaded_) loaded_->scheduler.stop();
  co_await all_answered(std::chrono::seconds(1));
  io_.stop();
}

/// Waits for that, up to `limit`.
asio::awaitable<void> Server::all_answered(std::chrono::duration<double> limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  asio::steady_timer timer(io_);
  while (http_->active() > 0 && std::chrono::steady_clock::now() < deadline) {
    timer.expires_after(std::chrono::milliseconds(20));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

int Server::run() {
  tcp::acceptor acceptor = listen(io_, flags_);
  const tcp::endpoint endpoint = acceptor.local_endpoint();
  if (endpoint.address().is_loopback()) {
    router_.only_hosts({"localhost", "127.0.0.1", "[::1]", flags_.host});
  } else if (!router_.has_keys()) {
    std::cerr << "warning: everybody who reaches " << url_of(endpoint)
              << " may use this server; --api-key asks for a key" << std::endl;
  }
  http_.emplace(
      std::move(acceptor), flags_.limits,
      [this](const vga::http::Request& request) { return router_.answer(request); },
      [this](unsigned status, const std::string& why) { return router_.refuse(status, why); });
  on_signal();
  std::cout << "listening on " << url_of(endpoint) << std::endl;
  std::thread loader([this] { load(); });
  io_.run();
  if (!loaded_ && !failure_) ::_exit(0);  // asked to end while it loads: nothing is to be saved
  loader.join();
  if (failure_) std::rethrow_exception(failure_);
  return 0;
}

void add_seconds(CLI::App& app, const std::string& name, std::chrono::milliseconds& value,
                 const std::string& what) {
  app.add_option_function<double>(
         name,
         [&value](double seconds) {
           value = std::chrono::milliseconds(static_cast<int64_t>(1000 * seconds));
         },
         what + " (default: " + std::to_string(value.count() / 1000) + ")")
      ->check(CLI::Range(0.001, 86400.0))
      ->type_name("SECONDS")
      ->group("Limits");
}

void add_size(CLI::App& app, const std::string& name, size_t& value, size_t most,
              const std::string& what) {
  app.add_option(name, value, what)
      ->check(CLI::Range(size_t{1}, most))
      ->capture_default_str()
      ->type_name("N")
      ->group("Limits");
}

void add_flags(CLI::App& app, Flags& flags) {
  flags.model.add_to(app);
  flags.model.add_window_to(app);
  flags.model.session.n_sequences = 4;
  app.add_option("--parallel", flags.model.session.n_sequences,
                 "Answers that are generated at once, each with a context of its own")
      ->check(CLI::Range(size_t{1}, size_t{4096}))
      ->capture_default_str()
      ->type_name("N");
  app.add_option("--host", flags.host, "Address to listen on; 0.0.0.0 is all there are")
      ->capture_default_str()
      ->type_name("ADDRESS");
  app.add_option("--port", flags.port, "Port to listen on; 0 takes a free one")
      ->capture_default_str()
      ->type_name("N");
  app.add_option("--alias", flags.alias, "Name of the model for clients (default: the file's)")
      ->type_name("NAME");
  app.add_option("--chat-template", flags.chat_template,
                 "Chat format: none, a file with a template, or one of " +
                     vga::ChatTemplate::names() + " (default: the model's own)")
      ->type_name("NAME|FILE");
  const std::string access = "Access";
  app.add_option("--api-key", flags.api_keys, "Wanted from clients; may be repeated")
      ->type_name("KEY")
      ->group(access);
  app.add_option("--api-key-file", flags.api_key_file, "A file with a key on each line")
      ->type_name("FILE")
      ->group(access);
  app.add_option("--cors-origin", flags.cors_origins,
                 "Pages from here may ask: https://example.org; may be repeated")
      ->type_name("ORIGIN")
      ->group(access);
  flags.sampler.add_to(app);
  app.add_option("--queue", flags.queue, "Requests that may wait; more are refused with 503")
      ->check(CLI::Range(size_t{0}, size_t{1} << 20))
      ->capture_default_str()
      ->type_name("N")
      ->group("Limits");
  add_size(app, "--step-rows", flags.step_rows, 1 << 16,
           "Tokens of prompts that are read at once while answers are being written");
  add_size(app, "--max-header", flags.limits.header_bytes, 1 << 20, "Bytes of a request's header");
  add_size(app, "--max-body", flags.limits.body_bytes, size_t{1} << 30, "Bytes of its body");
  add_size(app, "--connections", flags.limits.connections, 1 << 20, "Connections at once");
  add_seconds(app, "--header-timeout", flags.limits.header, "For a request's whole header");
  add_seconds(app, "--body-timeout", flags.limits.body, "For its body");
  add_seconds(app, "--idle-timeout", flags.limits.idle, "Between two requests of a connection");
  add_seconds(app, "--write-timeout", flags.limits.write, "For a client that does not read");
  app.add_option("--drain", flags.drain_seconds,
                 "What runs may take so many seconds to its end after SIGTERM or Ctrl-C")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str()
      ->type_name("SECONDS")
      ->group("Limits");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Answers many people at once: OpenAI's API over HTTP, and a page to chat at /"};
  Flags flags;
  add_flags(app, flags);
  app.footer("Example: vga-server -m model.gguf --parallel 8 --context 4096");
  return vga::run_program(app, argc, argv, [&] {
    const vga::MappedFile there(flags.model.file);  // before anything else is said
    return Server(flags).run();
  });
}
