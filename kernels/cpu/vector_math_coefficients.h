// Polynomial coefficients of the vector functions, lowest power first. Made by
// fit_vector_math.py, which says how; errors are of a float32 evaluation with fused
// multiply-adds: relative for exponentials, absolute for GELU.
#pragma once

namespace octavo::cpu {

// e^r for |r| <= ln(2) / 2. Largest error 1.5e-07.
constexpr float kExp[6] = {1.0f,         0.999999702f,  0.499991506f,
                           0.166676357f, 0.0418979302f, 0.00829031505f};

// 2^r for |r| <= 0.5. Largest error 1.6e-07.
constexpr float kExp2[6] = {1.0f,          0.693147004f,   0.240222424f,
                            0.0555073358f, 0.00967151299f, 0.00132647273f};

// The same. Largest error 1.0e-04.
constexpr float kExp2Coarse[4] = {1.0f, 0.693282902f, 0.242210969f, 0.0550089367f};

// erfc(u / sqrt 2) / 2 to the power 1 / 32. Largest error 4.2e-07.
constexpr float kGelu[6] = {0.97857219f,      -0.0244019553f,  -0.00941797439f,
                            -0.000897204096f, 0.000249747798f, -1.30687231e-05f};

constexpr float kGeluLimit = 5.4000001f;
constexpr int kGeluSquarings = 5;

// The same to the power 1 / 8. Largest error 5.3e-05.
constexpr float kGeluCoarse[5] = {0.916727841f, -0.0895448849f, -0.0359037519f, 0.00259394152f,
                                  0.000527787139f};

constexpr float kGeluCoarseLimit = 4.5f;
constexpr int kGeluCoarseSquarings = 3;

// 1 / (1 + exp(2 sqrt(2/pi) (u + 0.044715 u^3))) to the power 1 / 8. Largest error 4.7e-07.
constexpr float kGeluTanh[9] = {0.917006314f,     -0.0914861485f, -0.0318175778f,
                                -0.000767011312f, 0.00163356645f, 9.79398756e-05f,
                                -0.000178193979f, 4.1928688e-05f, -3.26501345e-06f};

constexpr float kGeluTanhLimit = 5.0f;
constexpr int kGeluTanhSquarings = 3;

}  // namespace octavo::cpu
