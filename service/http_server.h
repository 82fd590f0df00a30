// A small HTTP/1.1 server for pages made on request, such as /metrics.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace octavo {

struct HttpPage {
  std::string content_type;
  std::function<std::string()> body;  // called on the server's thread for each GET
};

// One thread. GET and HEAD of a known path are answered 200, other paths 404, other methods 405;
// request bodies and headers over 8 KiB are refused, idle or slow connections closed after 10 s,
// and at most 64 connections held.
class HttpServer {
 public:
  // `address` is "host:port"; port 0 lets the system choose.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address,
                                                           std::map<std::string, HttpPage> pages);
  // Closes every connection.
  ~HttpServer();

  int port() const;

 private:
  struct State;
  explicit HttpServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Splits "host:port" or "[v6]:port". INVALID_ARGUMENT says what is wrong.
absl::Status SplitAddress(const std::string& address, std::string* host, int* port);

// True for addresses only this machine reaches: 127.0.0.0/8, ::1, localhost, unix sockets.
bool IsLoopback(const std::string& host);

}  // namespace octavo
