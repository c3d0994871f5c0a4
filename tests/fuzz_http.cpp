/// Any bytes as what a client sends to the server, in two pieces. Requests that reach the handler
/// are within the limits and no more than the bytes have; whatever is answered is HTTP; when the
/// client is gone nothing is left of it.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/http.h"

namespace {

using namespace vga;
using boost::asio::awaitable;
using boost::asio::ip::tcp;

void check(bool good) {
  if (!good) std::abort();
}

const http::Limits limits = {.header_bytes = 512, .body_bytes = 600, .connections = 2};

size_t requests = 0;

/// The answer tells what was asked, whole or in pieces.
awaitable<http::Response> answer(const http::Request& request) {
  ++requests;
  check(request.body.size() <= limits.body_bytes);
  check(request.path.size() + request.host.size() + request.method.size() <= limits.header_bytes);
  check(request.method != "HEAD");
  http::Response response{.body = request.method + request.path + request.body};
  if (request.path == "/pieces") {
    response.pieces = [left = request.body]() mutable -> awaitable<std::optional<std::string>> {
      if (left.empty()) co_return std::nullopt;
      std::string piece = left.substr(0, 7);
      left.erase(0, 7);
      co_return piece;
    };
  }
  if (request.path == "/none") response = {.status = 204, .headers = {{"Allow", "GET"}}};
  co_return response;
}

http::Response refuse(unsigned status, const std::string& why) {
  check(status == 400 || status == 413 || status == 431 || status == 503);
  return {.status = status, .body = why};
}

/// A server that listens on a socket of this process alone.
struct Listening {
  Listening() : address{.sun_family = AF_UNIX} {
    const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
    // Without a path the kernel finds a name.
    check(::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)) == 0);
    size = sizeof address;
    check(::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    check(::listen(socket, 8) == 0);
    server.emplace(tcp::acceptor(context, tcp::v4(), socket), limits, answer, refuse);
  }

  int connect() const {
    const int client = ::socket(AF_UNIX, SOCK_STREAM, 0);
    check(::connect(client, reinterpret_cast<const sockaddr*>(&address), size) == 0);
    return client;
  }

  boost::asio::io_context context;
  sockaddr_un address;
  socklen_t size = 0;
  std::optional<http::Server> server;
};

size_t count(std::string_view text, std::string_view what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++n;
  return n;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Listening listening;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t cut = bytes.size() * data[0] / 255;
  requests = 0;
  const int client = listening.connect();
  for (const std::string_view piece : {bytes.substr(0, cut), bytes.substr(cut)}) {
    if (piece.empty()) continue;
    static_cast<void>(::send(client, piece.data(), piece.size(), MSG_NOSIGNAL));
    listening.context.poll();
  }
  ::shutdown(client, SHUT_WR);
  listening.context.poll();
  std::string answers;
  char part[4096];
  for (ssize_t n; (n = ::recv(client, part, sizeof part, MSG_DONTWAIT)) > 0;)
    answers.append(part, n);
  ::close(client);
  listening.context.poll();
  check(requests <= count(bytes, "HTTP/1."));
  check(answers.empty() || answers.starts_with("HTTP/1.1 ") || answers.starts_with("HTTP/1.0 "));
  check(requests == 0 || !answers.empty());
  check(listening.server->active() == 0);
  return 0;
}
