#include "server/router.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>
#include <iostream>
#include <random>

#include <boost/beast/core/string.hpp>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/text.h"
#include "common/program.h"
#include "server/answer_json.h"
#include "server/page.h"
#include "server/request.h"

namespace vga {
namespace {

using Json = nlohmann::ordered_json;
using boost::asio::awaitable;

/// Takes the same time whatever is wrong.
bool same_secret(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^
                  static_cast<unsigned char>(b[i % std::max<size_t>(1, b.size())]);
  }
  return difference == 0;
}

/// The double that is written as shortly as the float: 0.8, not 0.800000011920929.
double decimal(float value) {
  std::array<char, 32> text{};
  const auto [end, error] = std::to_chars(text.begin(), text.end(), value);
  double number = value;
  std::from_chars(text.begin(), end, number);
  return number;
}

http::Response json_response(const Json& json) {
  return {.body = dump(json)};
}

/// The page may run its own script and style, known by a number that no other page can guess, and
/// talk to this server alone.
http::Response page_response() {
  const std::string nonce = random_id("");
  std::string page(page_html);
  for (const std::string tag : {"<script", "<style"}) {
    const size_t at = page.find(tag + ">");
    if (at != std::string::npos) page.insert(at + tag.size(), " nonce=\"" + nonce + "\"");
  }
  http::Response response{.type = "text/html; charset=utf-8", .body = std::move(page)};
  response.headers = {
      {"Content-Security-Policy", "default-src 'none'; script-src 'nonce-" + nonce +
                                      "'; style-src 'nonce-" + nonce +
                                      "'; connect-src 'self'; img-src data:; base-uri 'none'; "
                                      "form-action 'none'; frame-ancestors 'none'"},
      {"Cache-Control", "no-store"},
      {"X-Content-Type-Options", "nosniff"},
      {"Referrer-Policy", "no-referrer"}};
  return response;
}

}  // namespace

Router::Router(ServerOptions options, Metrics& metrics)
    : options_(std::move(options)), metrics_(metrics), created_(std::time(nullptr)) {
  using Request = http::Request;
  add(
      "/", "GET", [](const Request&) { return page_response(); }, true);
  add(
      "/health", "GET", [this](const Request&) { return health(); }, true);
  add("/v1/models", "GET", [this](const Request&) { return models(); });
  add("/props", "GET", [this](const Request&) { return props(); });
  add("/slots", "GET", [this](const Request&) { return slots(); });
  add("/metrics", "GET", [this](const Request&) {
    const auto state = scheduler_ != nullptr ? scheduler_->state() : Scheduler::State();
    return http::Response{.type = "text/plain; version=0.0.4", .body = metrics_.text(state)};
  });
  add("/tokenize", "POST", [this](const Request& request) { return tokenize(request); });
  add("/detokenize", "POST", [this](const Request& request) { return detokenize(request); });
  routes_.push_back({"/v1/chat/completions", "POST", false,
                     [this](const Request& request) -> awaitable<http::Response> {
                       check_loaded();
                       co_return co_await completions_->chat(
                           read_chat_request(request.body, defaults()));
                     }});
  routes_.push_back({"/v1/completions", "POST", false,
                     [this](const Request& request) -> awaitable<http::Response> {
                       check_loaded();
                       co_return co_await completions_->text(
                           read_text_request(request.body, defaults()));
                     }});
}

void Router::add(std::string path, std::string method,
                 std::function<http::Response(const http::Request&)> answer, bool is_open) {
  routes_.push_back(
      {std::move(path), std::move(method), is_open,
       [answer = std::move(answer)](const http::Request& request) -> awaitable<http::Response> {
         co_return answer(request);
       }});
}

void Router::open(const Model& model, Scheduler& scheduler, Completions& completions) {
  model_ = &model;
  scheduler_ = &scheduler;
  completions_ = &completions;
}

void Router::check_loaded() const {
  if (completions_ != nullptr) return;
  ApiError error(503, "the model is being loaded");
  error.headers["Retry-After"] = "1";
  throw error;
}

/// Without --seed each request has one of its own.
SamplerOptions Router::defaults() const {
  SamplerOptions sampler = options_.sampler;
  if (!options_.has_seed) sampler.seed = std::random_device{}();
  return sampler;
}

/// A page elsewhere can have a name of its own point to this machine; what its browser sends then
/// has that name as the host.
void Router::check_host(const http::Request& request) const {
  if (hosts_.empty()) return;
  std::string host = request.host;
  const size_t colon = host.rfind(':');
  if (colon != std::string::npos && host.find(']', colon) == std::string::npos) host.resize(colon);
  for (const std::string& known : hosts_) {
    if (boost::beast::iequals(host, known)) return;
  }
  throw ApiError(403, "host '" + printable(host) + "' is not served here");
}

/// A page elsewhere may send what needs no leave of ours, and would have this machine work.
void Router::check_origin(const http::Request& request) const {
  if (request.origin.empty() || allows_origin(request.origin)) return;
  const size_t scheme = request.origin.find("://");
  const bool is_ours = scheme != std::string::npos &&
                       boost::beast::iequals(request.origin.substr(scheme + 3), request.host);
  if (!is_ours) throw ApiError(403, "pages of this origin may not ask; --cors-origin lets them");
}

void Router::check_key(const http::Request& request) const {
  if (options_.api_keys.empty()) return;
  const std::string scheme = "Bearer ";
  const bool has_scheme =
      boost::beast::iequals(request.authorization.substr(0, scheme.size()), scheme);
  const std::string given =
      has_scheme ? request.authorization.substr(scheme.size()) : std::string();
  bool good = false;
  for (const std::string& key : options_.api_keys) good |= same_secret(given, key);
  if (good) return;
  ApiError error(401,
                 given.empty() ? "wanted an API key, as 'Authorization: Bearer KEY'"
                               : "this API key is not known",
                 "", "invalid_api_key");
  error.headers["WWW-Authenticate"] = "Bearer";
  throw error;
}

bool Router::allows_origin(const std::string& origin) const {
  return !origin.empty() &&
         std::ranges::find(options_.cors_origins, origin) != options_.cors_origins.end();
}

/// OpenAI's client for browsers sends headers of its own; a star does not stand for authorization.
http::Response Router::preflight(const std::string& method) const {
  http::Response response{.status = 204};
  response.headers = {{"Access-Control-Allow-Methods", method},
                      {"Access-Control-Allow-Headers", "authorization, content-type, *"},
                      {"Access-Control-Max-Age", "600"}};
  return response;
}

awaitable<http::Response> Router::find(const http::Request& request) {
  check_host(request);
  if (request.method == "POST") check_origin(request);
  const std::string models = "/v1/models/";
  const Route* route = nullptr;
  for (const Route& known : routes_) {
    if (known.path == request.path) route = &known;
  }
  const bool names_model = request.path.starts_with(models);
  const bool is_served = route != nullptr || names_model;
  const std::string method = route != nullptr ? route->method : "GET";
  if (is_served && request.method == "OPTIONS" && allows_origin(request.origin)) {
    co_return preflight(method);
  }
  if (route == nullptr || !route->is_open) check_key(request);
  if (!is_served) throw ApiError(404, "there is nothing at this path");
  if (request.method != method) {
    ApiError error(405, "wanted " + method + ", found " + printable(request.method));
    error.headers["Allow"] = method;
    throw error;
  }
  if (names_model) co_return model_named(request.path.substr(models.size()));
  co_return co_await route->answer(request);
}

awaitable<http::Response> Router::answer(const http::Request& request) {
  const auto start = Clock::now();
  http::Response response;
  try {
    response = co_await find(request);
  } catch (const ApiError& error) {
    response = error_response(error);
  } catch (const Error& error) {
    response = error_response(ApiError(400, error.what()));
  } catch (const std::bad_alloc&) {
    response = error_response(ApiError(503, "out of memory"));
  } catch (const boost::system::system_error&) {
    throw;  // the connection's
  } catch (const std::exception& error) {
    response = error_response(ApiError(500, error.what()));
  }
  if (allows_origin(request.origin)) {
    response.headers["Access-Control-Allow-Origin"] = request.origin;
    response.headers["Vary"] = "Origin";
  }
  metrics_.response(response.status);
  // Probes come every few seconds: as long as all is well, they would be most of the log.
  const bool is_probe = request.path == "/health" || request.path == "/metrics";
  if (is_probe && response.status == 200) co_return response;
  // A path that is none may hold anything, so it is not said. Nor is what was asked or answered.
  const bool known = std::ranges::find(routes_, request.path, &Route::path) != routes_.end();
  std::cerr << request.method.substr(0, 8) << ' ' << (known ? printable(request.path) : "?") << ' '
            << response.status << ' ' << short_number(1000 * seconds_since(start)) << " ms"
            << std::endl;
  co_return response;
}

http::Response Router::refuse(unsigned status, const std::string& why) {
  metrics_.response(status);
  return error_response(ApiError(status, why));
}

http::Response Router::health() const {
  std::string status = "ok";
  if (scheduler_ == nullptr) {
    status = "loading";
  } else if (const auto state = scheduler_->state(); state.draining) {
    status = "draining";
  } else if (state.idle_seconds > options_.stuck_seconds) {
    status = "stuck";
  }
  http::Response response = json_response({{"status", status}});
  if (status != "ok") response.status = 503;
  return response;
}

http::Response Router::models() const {
  return json_response({{"object", "list"},
                        {"data", Json::array({{{"id", options_.model_name},
                                               {"object", "model"},
                                               {"created", created_},
                                               {"owned_by", "vga"}}})}});
}

http::Response Router::model_named(const std::string& name) const {
  if (name != options_.model_name) {
    throw ApiError(404, "there is no such model", "model", "model_not_found");
  }
  return json_response({{"id", options_.model_name},
                        {"object", "model"},
                        {"created", created_},
                        {"owned_by", "vga"}});
}

http::Response Router::props() const {
  check_loaded();
  const bool slides = scheduler_->slides();
  const SamplerOptions& s = options_.sampler;
  return json_response({{"model", options_.model_name},
                        {"description", model_->description()},
                        {"context", scheduler_->context()},
                        {"window", slides ? Json(scheduler_->context()) : Json(nullptr)},
                        {"keep", slides ? Json(scheduler_->keep()) : Json(nullptr)},
                        {"sequences", scheduler_->n_sequences()},
                        {"vocabulary", model_->config().vocab_size},
                        {"chat_template", completions_->has_chat_template()},
                        {"defaults",
                         {{"temperature", decimal(s.temperature)},
                          {"top_k", s.top_k},
                          {"top_p", decimal(s.top_p)},
                          {"min_p", decimal(s.min_p)},
                          {"repeat_penalty", decimal(s.repeat_penalty)}}}});
}

http::Response Router::slots() const {
  check_loaded();
  Json slots = Json::array();
  const Scheduler::State state = scheduler_->state();
  for (size_t i = 0; i < state.sequences.size(); ++i) {
    const Scheduler::State::Sequence& sequence = state.sequences[i];
    slots.push_back({{"id", i},
                     {"running", sequence.running},
                     {"length", sequence.length},
                     {"prompt_left", sequence.prompt_left},
                     {"tokens", sequence.tokens}});
  }
  return json_response(slots);
}

http::Response Router::tokenize(const http::Request& request) const {
  check_loaded();
  return json_response(
      {{"tokens", model_->tokenizer().encode(read_tokenize_request(request.body))}});
}

http::Response Router::detokenize(const http::Request& request) const {
  check_loaded();
  const std::vector<Token> tokens = read_detokenize_request(request.body);
  for (const Token token : tokens) {
    if (static_cast<size_t>(token) < model_->tokenizer().vocab_size()) continue;
    throw ApiError(400, "'tokens': " + std::to_string(token) + " is not of the vocabulary",
                   "tokens");
  }
  return json_response({{"content", model_->tokenizer().decode(tokens)}});
}

}  // namespace vga
