// octavo-server.
#include "service/server_run.h"

int main(int argc, char** argv) { return octavo::RunServer(argc, argv, nullptr); }
