#include "service/http_server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace octavo {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::seconds kTimeout{10};
constexpr uint32_t kMaxHeaderBytes = 8192;
constexpr int kMaxConnections = 64;

using Pages = std::map<std::string, HttpPage>;
using Request = http::request<http::empty_body>;
using Response = http::response<http::string_body>;

Response Answer(const Pages& pages, const Request& request) {
  Response response;
  response.version(request.version());
  response.keep_alive(request.keep_alive());
  response.set(http::field::server, "octavo");
  std::string path(request.target());
  path = path.substr(0, path.find('?'));
  const auto page = pages.find(path);
  const bool head = request.method() == http::verb::head;
  response.set(http::field::content_type, "text/plain; charset=utf-8");
  if (page == pages.end()) {
    response.result(http::status::not_found);
    response.body() = "not found\n";
  } else if (request.method() != http::verb::get && !head) {
    response.result(http::status::method_not_allowed);
    response.set(http::field::allow, "GET, HEAD");
    response.body() = "method not allowed\n";
  } else {
    response.result(http::status::ok);
    response.set(http::field::content_type, page->second.content_type);
    response.body() = page->second.body();
  }
  response.prepare_payload();
  if (head) response.body().clear();  // the length stays
  return response;
}

// One connection; keeps itself alive through its pending operation.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, const Pages* pages, int* connections)
      : stream_(std::move(socket)), pages_(pages), connections_(connections) {
    ++*connections_;
  }
  ~Connection() { --*connections_; }

  void Read() {
    parser_.emplace();
    parser_->header_limit(kMaxHeaderBytes);
    parser_->body_limit(0);
    stream_.expires_after(kTimeout);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](error_code error, size_t) {
                       if (error) {
                         self->Close();
                       } else {
                         self->Write();
                       }
                     });
  }

 private:
  void Write() {
    response_ = Answer(*pages_, parser_->get());
    serializer_.emplace(response_);
    if (parser_->get().method() == http::verb::head) serializer_->split(true);
    stream_.expires_after(kTimeout);
    auto done = [self = shared_from_this()](error_code error, size_t) {
      if (error || self->response_.need_eof()) {
        self->Close();
      } else {
        self->Read();
      }
    };
    if (parser_->get().method() == http::verb::head) {
      http::async_write_header(stream_, *serializer_, std::move(done));
    } else {
      http::async_write(stream_, *serializer_, std::move(done));
    }
  }

  void Close() {
    error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
    stream_.socket().close(ignored);
  }

  beast::tcp_stream stream_;
  const Pages* const pages_;
  int* const connections_;  // touched by the server's thread alone
  beast::flat_buffer buffer_{2 * kMaxHeaderBytes};
  std::optional<http::request_parser<http::empty_body>> parser_;
  Response response_;
  std::optional<http::response_serializer<http::string_body>> serializer_;
};

}  // namespace

struct HttpServer::State {
  explicit State(Pages known) : pages(std::move(known)) {}

  absl::Status Open(const std::string& address);
  void Accept();

  const Pages pages;
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  asio::steady_timer retry{io};
  int connections = 0;
  std::thread thread;
};

absl::Status HttpServer::State::Open(const std::string& address) {
  std::string host;
  int port = 0;
  if (absl::Status status = SplitAddress(address, &host, &port); !status.ok()) return status;
  error_code error;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(host, std::to_string(port), tcp::resolver::passive, error);
  if (!error) {
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  }
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", error.message()));
}

void HttpServer::State::Accept() {
  acceptor.async_accept([this](error_code error, tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      // Out of descriptors, most likely: try again when some may have been freed.
      retry.expires_after(std::chrono::milliseconds(100));
      retry.async_wait([this](error_code cancelled) {
        if (!cancelled) Accept();
      });
      return;
    }
    if (connections < kMaxConnections) {
      std::make_shared<Connection>(std::move(socket), &pages, &connections)->Read();
    }
    Accept();
  });
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const std::string& address, std::map<std::string, HttpPage> pages) {
  auto state = std::make_unique<State>(std::move(pages));
  if (absl::Status status = state->Open(address); !status.ok()) return status;
  state->Accept();
  state->thread = std::thread([raw = state.get()] { raw->io.run(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

HttpServer::~HttpServer() {
  state_->io.stop();
  state_->thread.join();
}

int HttpServer::port() const {
  error_code error;
  return state_->acceptor.local_endpoint(error).port();
}

absl::Status SplitAddress(const std::string& address, std::string* host, int* port) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), port) ||
      *port < 0 || *port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", address, "' is not HOST:PORT, such as 127.0.0.1:50051"));
  }
  *host = address.substr(0, colon);
  if (host->size() >= 2 && host->front() == '[' && host->back() == ']') {
    *host = host->substr(1, host->size() - 2);
  }
  if (host->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", address, "' names no host; 0.0.0.0 listens on all addresses"));
  }
  return absl::OkStatus();
}

bool IsLoopback(const std::string& host) {
  if (host == "localhost" || host == "unix") return true;
  error_code error;
  const asio::ip::address address = asio::ip::make_address(host, error);
  return !error && address.is_loopback();
}

}  // namespace octavo
