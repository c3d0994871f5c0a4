#include "server/http.h"

#include <charconv>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <poll.h>
#include <sys/socket.h>

namespace vga::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace wire = boost::beast::http;
using asio::awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using namespace asio::experimental::awaitable_operators;
constexpr auto as_result = asio::as_tuple(asio::use_awaitable);

constexpr long max_header_lines = 100;

/// Ends when the client has closed its side or is gone.
awaitable<void> client_left(tcp::socket& socket) {
  const auto [error] = co_await socket.async_wait(tcp::socket::wait_read, as_result);
  if (error) co_return;
  // It may have sent its next request already. That can wait, and what comes behind it, the end, is
  // asked for now and then.
  asio::steady_timer pause(socket.get_executor());
  while (true) {
    pollfd state{.fd = socket.native_handle(), .events = POLLRDHUP, .revents = 0};
    if (::poll(&state, 1, 0) != 0) co_return;
    pause.expires_after(std::chrono::milliseconds(100));
    const auto [stopped] = co_await pause.async_wait(as_result);
    if (stopped) co_return;
  }
}

/// Empty lines before a request mean nothing (RFC 9112, 2.2). True if nothing else has come.
bool skip_empty_lines(beast::flat_buffer& buffer) {
  const std::string_view all(static_cast<const char*>(buffer.data().data()), buffer.size());
  buffer.consume(std::min(all.find_first_not_of("\r\n"), all.size()));
  return buffer.size() == 0;
}

std::string text_of(const auto& fields, wire::field name) {
  return std::string(fields[name]);
}

/// With %XX as the characters that they stand for.
std::string decoded(std::string_view path) {
  std::string text;
  for (size_t i = 0; i < path.size(); ++i) {
    unsigned value = 0;
    const char* begin = path.data() + i + 1;
    if (path[i] == '%' && path.size() - i > 2 &&
        std::from_chars(begin, begin + 2, value, 16).ptr == begin + 2) {
      text += static_cast<char>(value);
      i += 2;
    } else {
      text += path[i];
    }
  }
  return text;
}

Request take(wire::request<wire::string_body>&& message) {
  Request request;
  request.method = std::string(message.method_string());
  const std::string_view target(message.target().data(), message.target().size());
  request.path = decoded(target.substr(0, target.find('?')));
  request.host = text_of(message, wire::field::host);
  request.origin = text_of(message, wire::field::origin);
  request.authorization = text_of(message, wire::field::authorization);
  request.body = std::move(message.body());
  return request;
}

}  // namespace

/// How an answer is to be sent.
struct Form {
  unsigned version = 11;  // of HTTP; 10 knows no chunks
  bool keep_alive = false;
  bool head_alone = false;
};

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
  Impl(tcp::acceptor listening, const Limits& with, Handler handle, Refusal refuse)
      : acceptor(std::move(listening)),
        limits(with),
        handler(std::move(handle)),
        refusal(std::move(refuse)) {}

  awaitable<void> accept();
  awaitable<void> serve(tcp::socket socket);
  awaitable<bool> serve_one(beast::tcp_stream& stream, beast::flat_buffer& buffer);
  awaitable<bool> send(beast::tcp_stream& stream, Response response, const Form& form);
  awaitable<bool> send_pieces(beast::tcp_stream& stream, wire::response<wire::empty_body> head,
                              Response& response, const Form& form);
  awaitable<void> refuse(beast::tcp_stream& stream, unsigned status, std::string why);
  awaitable<void> close(beast::tcp_stream& stream);

  tcp::acceptor acceptor;
  Limits limits;
  Handler handler;
  Refusal refusal;
  size_t connections = 0;
  size_t active = 0;
  bool stopping = false;
};

/// Counts something for as long as it lives.
class Counted {
 public:
  explicit Counted(size_t& count) : count_(count) { ++count_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --count_; }

 private:
  size_t& count_;
};

awaitable<void> Server::Impl::accept() {
  const auto self = shared_from_this();
  while (!stopping) {
    auto [error, socket] = co_await acceptor.async_accept(as_result);
    if (stopping || error == asio::error::operation_aborted) co_return;
    if (error) {  // out of file descriptors, most likely: some will be free again
      asio::steady_timer pause(acceptor.get_executor(), std::chrono::milliseconds(100));
      co_await pause.async_wait(as_result);
      continue;
    }
    socket.set_option(tcp::no_delay(true), error);
    asio::co_spawn(acceptor.get_executor(), serve(std::move(socket)), asio::detached);
  }
}

awaitable<void> Server::Impl::serve(tcp::socket socket) {
  const auto self = shared_from_this();
  const Counted counted(connections);
  beast::tcp_stream stream(std::move(socket));
  if (connections > limits.connections) {
    co_await refuse(stream, 503, "too many connections");
    co_return;
  }
  beast::flat_buffer buffer;
  while (!stopping && co_await serve_one(stream, buffer)) {
  }
}

/// Reads a request and answers it; false if the connection is at its end.
awaitable<bool> Server::Impl::serve_one(beast::tcp_stream& stream, beast::flat_buffer& buffer) {
  stream.expires_after(limits.idle);
  while (skip_empty_lines(buffer)) {
    const auto [error, n] = co_await stream.async_read_some(buffer.prepare(4096), as_result);
    if (error) co_return false;
    buffer.commit(n);
  }
  wire::request_parser<wire::string_body> parser;
  parser.header_limit(static_cast<uint32_t>(limits.header_bytes));
  parser.body_limit(limits.body_bytes);
  stream.expires_after(limits.header);
  auto [error, header_bytes] = co_await wire::async_read_header(stream, buffer, parser, as_result);
  const auto& fields = parser.get();
  if (!error && std::distance(fields.begin(), fields.end()) > max_header_lines) {
    error = wire::error::header_limit;
  }
  // Of two each might be meant, by us and by a proxy before us.
  for (const wire::field once :
       {wire::field::content_length, wire::field::host, wire::field::transfer_encoding}) {
    if (!error && fields.count(once) > 1) error = wire::error::bad_field;
  }
  // With any other one the parser would take the body for the next request.
  if (!error && fields.count(wire::field::transfer_encoding) > 0 &&
      !beast::iequals(fields[wire::field::transfer_encoding], "chunked")) {
    error = wire::error::bad_transfer_encoding;
  }
  if (!error && beast::iequals(fields[wire::field::expect], "100-continue")) {
    wire::response<wire::empty_body> go_on(wire::status::continue_, 11);
    stream.expires_after(limits.write);
    co_await wire::async_write(stream, go_on, as_result);
  }
  if (!error) {
    stream.expires_after(limits.body);
    const auto [body_error, n] = co_await wire::async_read(stream, buffer, parser, as_result);
    error = body_error;
  }
  if (error == wire::error::header_limit) {
    co_await refuse(stream, 431,
                    "the header is longer than " + std::to_string(limits.header_bytes) +
                        " bytes or " + std::to_string(max_header_lines) + " lines");
  } else if (error == wire::error::body_limit) {
    co_await refuse(stream, 413,
                    "the body is larger than " + std::to_string(limits.body_bytes) + " bytes");
  } else if (error.category() == wire::make_error_code(wire::error::bad_value).category() &&
             error != wire::error::end_of_stream && error != wire::error::partial_message) {
    co_await refuse(stream, 400, "no HTTP request: " + error.message());
  }
  if (error) co_return false;

  const Counted counted(active);
  Form form{fields.version(), fields.keep_alive()};
  Request request = take(parser.release());
  if (request.method == "HEAD") {  // what GET would be answered, without the body
    request.method = "GET";
    form.head_alone = true;
  }
  stream.expires_never();
  // The first one to end cancels the other.
  auto first = co_await (handler(request) || client_left(stream.socket()));
  if (first.index() == 1) co_return false;
  form.keep_alive &= !stopping;
  co_return co_await send(stream, std::move(std::get<0>(first)), form);
}

awaitable<bool> Server::Impl::send(beast::tcp_stream& stream, Response response, const Form& form) {
  wire::response<wire::empty_body> head(static_cast<wire::status>(response.status), form.version);
  if (response.status != 204) head.set(wire::field::content_type, response.type);
  for (const auto& [name, value] : response.headers) head.set(name, value);
  if (response.pieces) co_return co_await send_pieces(stream, std::move(head), response, form);
  head.keep_alive(form.keep_alive);
  wire::response<wire::string_body> message(std::move(head.base()));
  message.body() = std::move(response.body);
  message.prepare_payload();
  if (form.head_alone) message.body().clear();
  stream.expires_after(limits.write);
  const auto [error, n] = co_await wire::async_write(stream, message, as_result);
  if (!error && !form.keep_alive) co_await close(stream);
  co_return !error && form.keep_alive;
}

/// False if the connection is at its end: the client is gone, did not take the bytes, or knows of
/// no other end of a body.
awaitable<bool> Server::Impl::send_pieces(beast::tcp_stream& stream,
                                          wire::response<wire::empty_body> head, Response& response,
                                          const Form& form) {
  const bool in_chunks = form.version >= 11;
  const bool keep_alive = form.keep_alive && in_chunks;
  head.chunked(in_chunks);
  head.keep_alive(keep_alive);
  wire::response_serializer<wire::empty_body> serializer(head);
  stream.expires_after(limits.write);
  const auto [error, n] = co_await wire::async_write_header(stream, serializer, as_result);
  if (error || form.head_alone) co_return false;
  while (true) {
    stream.expires_never();
    auto first = co_await (response.pieces() || client_left(stream.socket()));
    if (first.index() == 1) co_return false;
    std::optional<std::string>& piece = std::get<0>(first);
    if (!piece) break;
    stream.expires_after(limits.write);
    const auto [failed, sent] =
        in_chunks
            ? co_await asio::async_write(stream, wire::make_chunk(asio::buffer(*piece)), as_result)
            : co_await asio::async_write(stream, asio::buffer(*piece), as_result);
    if (failed) co_return false;
  }
  if (!in_chunks) {
    co_await close(stream);
    co_return false;
  }
  stream.expires_after(limits.write);
  const auto [failed, sent] =
      co_await asio::async_write(stream, wire::make_chunk_last(), as_result);
  co_return !failed && keep_alive;
}

awaitable<void> Server::Impl::refuse(beast::tcp_stream& stream, unsigned status, std::string why) {
  co_await send(stream, refusal(status, why), {});
}

/// Says that nothing follows, and takes for a moment what still comes: closing at once would have
/// the kernel throw away what the client has not read yet.
awaitable<void> Server::Impl::close(beast::tcp_stream& stream) {
  error_code ignored;
  stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
  stream.expires_after(std::chrono::seconds(1));
  std::array<char, 4096> bytes{};
  for (size_t taken = 0; taken < 1 << 20;) {
    const auto [error, n] = co_await stream.async_read_some(asio::buffer(bytes), as_result);
    if (error) break;
    taken += n;
  }
}

Server::Server(tcp::acceptor acceptor, const Limits& limits, Handler handler, Refusal refusal)
    : impl_(std::make_shared<Impl>(std::move(acceptor), limits, std::move(handler),
                                   std::move(refusal))) {
  asio::co_spawn(impl_->acceptor.get_executor(), impl_->accept(), asio::detached);
}

Server::~Server() = default;

void Server::stop() {
  impl_->stopping = true;
  error_code ignored;
  impl_->acceptor.close(ignored);
}

size_t Server::active() const {
  return impl_->active;
}

}  // namespace vga::http
