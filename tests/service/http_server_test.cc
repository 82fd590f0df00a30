#include "service/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "tests/service/http_client.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::map<std::string, HttpPage> pages;
    pages["/metrics"] = {"text/plain; version=0.0.4; charset=utf-8",
                         [this] { return "made " + std::to_string(++made_) + "\n"; }};
    auto server = HttpServer::Start("127.0.0.1:0", std::move(pages));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::string Exchange(const std::string& request) {
    return HttpExchange(server_->port(), request);
  }

  int made_ = 0;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, GetOfAPage) {
  const std::string answer =
      Exchange("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
  EXPECT_THAT(answer, HasSubstr("\r\n\r\nmade 1\n"));
  EXPECT_THAT(Exchange("GET /metrics?x=1 HTTP/1.0\r\n\r\n"), HasSubstr("made 2\n"));
}

TEST_F(HttpServerTest, HeadHasALengthAndNoBody) {
  const std::string answer =
      Exchange("HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Length: 7\r\n"));
  EXPECT_THAT(answer, ::testing::EndsWith("\r\n\r\n"));
}

TEST_F(HttpServerTest, OtherPathsAndMethods) {
  EXPECT_THAT(Exchange("GET / HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 404"));
  EXPECT_THAT(Exchange("GET /metrics/ HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 404"));
  const std::string answer = Exchange("DELETE /metrics HTTP/1.0\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.0 405"));
  EXPECT_THAT(answer, HasSubstr("Allow: GET, HEAD\r\n"));
  EXPECT_EQ(made_, 0);
}

TEST_F(HttpServerTest, AConnectionIsKept) {
  const std::string answer = Exchange(
      "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
      "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answer, HasSubstr("made 1\n"));
  EXPECT_THAT(answer, HasSubstr("made 2\n"));
}

TEST_F(HttpServerTest, RefusesBigHeadersBodiesAndNonsense) {
  const std::string big = "GET /metrics HTTP/1.1\r\nX: " + std::string(10000, 'x') + "\r\n\r\n";
  EXPECT_THAT(Exchange(big), ::testing::Not(HasSubstr("200")));
  EXPECT_THAT(Exchange("GET /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"),
              ::testing::Not(HasSubstr("200")));
  EXPECT_THAT(Exchange("\x16\x03\x01 not http\r\n\r\n"), ::testing::Not(HasSubstr("200")));
  EXPECT_THAT(Exchange("GET /metrics HTTP/1.0\r\n\r\n"), HasSubstr("made 1\n")) << "still alive";
}

TEST_F(HttpServerTest, ManyClients) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        EXPECT_THAT(Exchange("GET /metrics HTTP/1.0\r\n\r\n"), HasSubstr("made"));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  server_.reset();
  EXPECT_EQ(made_, 160);
}

TEST(HttpServer, AddressesThatCannotBeListenedOn) {
  EXPECT_FALSE(HttpServer::Start("nonsense", {}).ok());
  EXPECT_FALSE(HttpServer::Start("127.0.0.1:99999", {}).ok());
  EXPECT_FALSE(HttpServer::Start(":80", {}).ok());
  auto first = HttpServer::Start("127.0.0.1:0", {});
  ASSERT_TRUE(first.ok());
  const auto second = HttpServer::Start("127.0.0.1:" + std::to_string((*first)->port()), {});
  EXPECT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("cannot listen on"));
}

TEST(HttpServer, Loopback) {
  for (const char* host : {"127.0.0.1", "127.9.9.9", "::1", "localhost"}) {
    EXPECT_TRUE(IsLoopback(host)) << host;
  }
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "example.com", "127.0.0.1.example.com"}) {
    EXPECT_FALSE(IsLoopback(host)) << host;
  }
  std::string host;
  int port = 0;
  EXPECT_TRUE(SplitAddress("[::1]:80", &host, &port).ok());
  EXPECT_EQ(host, "::1");
  EXPECT_EQ(port, 80);
}

}  // namespace
}  // namespace octavo
