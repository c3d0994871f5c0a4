#pragma once

#include <map>
#include <stdexcept>
#include <string>

#include "server/http.h"

namespace vga {

/// An answer that is an error, in the form that OpenAI's clients read.
struct ApiError : std::runtime_error {
  ApiError(unsigned status_, const std::string& message, std::string param_ = {},
           std::string code_ = {})
      : std::runtime_error(message),
        status(status_),
        param(std::move(param_)),
        code(std::move(code_)) {}

  unsigned status;
  std::string param;  // the field of the request, if it is one's
  std::string code;   // what programs look for: "context_length_exceeded"
  std::map<std::string, std::string> headers = {};
};

/// {"error": {"message", "type", "param", "code"}}, as JSON.
std::string error_body(const ApiError& error);

http::Response error_response(const ApiError& error);

}  // namespace vga
