#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

/// HTTP/1.1 for one thread of coroutines: requests in, answers out. Knows nothing of models.
namespace vga::http {

struct Limits {
  size_t header_bytes = 16 << 10;  // of a request's header; it has up to 100 lines
  size_t body_bytes = 8 << 20;
  size_t connections = 1024;
  std::chrono::milliseconds header{10'000};  // from its first byte to its last
  std::chrono::milliseconds body{60'000};
  std::chrono::milliseconds idle{60'000};   // between two requests of a connection
  std::chrono::milliseconds write{30'000};  // for what is handed to the kernel at once
};

struct Request {
  std::string method;
  std::string path;  // without what follows a '?', %XX decoded
  std::string body;
  std::string host;
  std::string origin;
  std::string authorization;
};

struct Response {
  unsigned status = 200;
  std::string type = "application/json";
  std::string body = {};
  std::map<std::string, std::string> headers = {};
  /// If set, gives the body piece by piece instead, until nullopt. Destroyed unfinished when the
  /// client is gone.
  std::function<boost::asio::awaitable<std::optional<std::string>>()> pieces = {};
};

/// Answers a request. While it runs the connection is watched: when the client leaves, it is
/// cancelled where it waits.
using Handler = std::function<boost::asio::awaitable<Response>(const Request&)>;
/// Makes the answer to what never became a request: a header too long, a body too large.
using Refusal = std::function<Response(unsigned status, const std::string& why)>;

class Server {
 public:
  /// Takes connections from `acceptor`, which listens.
  Server(boost::asio::ip::tcp::acceptor acceptor, const Limits& limits, Handler handler,
         Refusal refusal);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server();

  /// Takes no more connections, and ends each after the answer that it waits for.
  void stop();
  /// Answers that are being made or sent.
  size_t active() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace vga::http
