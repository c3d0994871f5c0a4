#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>

#include "server/api_error.h"
#include "server/completions.h"
#include "server/http.h"
#include "server/metrics.h"
#include "vga/scheduler.h"

namespace vga {

/// Who may ask, and as whom the model is known.
struct ServerOptions {
  std::string model_name;
  std::vector<std::string> api_keys;      // none: everybody may ask
  std::vector<std::string> cors_origins;  // pages of these may
  SamplerOptions sampler;                 // for what a request does not say
  bool has_seed = false;                  // its seed, too; else each gets one of its own
  double stuck_seconds = 30;              // without a step, though there is work
};

/// Finds who answers a request: checks host, key and method, and turns errors into answers.
class Router {
 public:
  Router(ServerOptions options, Metrics& metrics);

  /// The model is there. All of these must live as long as requests come.
  void open(const Model& model, Scheduler& scheduler, Completions& completions);
  /// From now on only requests to hosts of these names are answered.
  void only_hosts(std::vector<std::string> hosts) { hosts_ = std::move(hosts); }
  bool has_keys() const { return !options_.api_keys.empty(); }

  boost::asio::awaitable<http::Response> answer(const http::Request& request);
  http::Response refuse(unsigned status, const std::string& why);

 private:
  struct Route {
    std::string path;
    std::string method;
    bool is_open;  // without a key
    std::function<boost::asio::awaitable<http::Response>(const http::Request&)> answer;
  };

  void add(std::string path, std::string method,
           std::function<http::Response(const http::Request&)> answer, bool is_open = false);
  boost::asio::awaitable<http::Response> find(const http::Request& request);
  SamplerOptions defaults() const;
  void check_host(const http::Request& request) const;
  void check_origin(const http::Request& request) const;
  void check_key(const http::Request& request) const;
  bool allows_origin(const std::string& origin) const;
  http::Response preflight(const std::string& method) const;
  void check_loaded() const;

  http::Response health() const;
  http::Response models() const;
  http::Response model_named(const std::string& name) const;
  http::Response props() const;
  http::Response slots() const;
  http::Response tokenize(const http::Request& request) const;
  http::Response detokenize(const http::Request& request) const;

  ServerOptions options_;
  Metrics& metrics_;
  std::vector<std::string> hosts_;  // none: any
  std::vector<Route> routes_;
  int64_t created_;
  const Model* model_ = nullptr;
  Scheduler* scheduler_ = nullptr;
  Completions* completions_ = nullptr;
};

}  // namespace vga
