#include "server/api_error.h"

#include <nlohmann/json.hpp>

namespace vga {
namespace {

using nlohmann::ordered_json;

std::string type_of(unsigned status) {
  if (status >= 500) return "server_error";
  if (status == 401) return "authentication_error";
  if (status == 404) return "not_found_error";
  return "invalid_request_error";
}

ordered_json text_or_null(const std::string& text) {
  return text.empty() ? ordered_json(nullptr) : ordered_json(text);
}

}  // namespace

std::string error_body(const ApiError& error) {
  const ordered_json body = {{"error",
                              {{"message", error.what()},
                               {"type", type_of(error.status)},
                               {"param", text_or_null(error.param)},
                               {"code", text_or_null(error.code)}}}};
  return body.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

http::Response error_response(const ApiError& error) {
  return {.status = error.status, .body = error_body(error), .headers = error.headers};
}

}  // namespace vga
