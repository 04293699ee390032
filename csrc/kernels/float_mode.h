// The floating-point mode in which every number of the engine is worked out: IEEE's defaults.
//
// Another library in the process may have set its threads to flush small numbers to zero, or to round otherwise. The
// bits of a row would then depend on who loaded the engine. A thread that is started inside the guard has the mode,
// too.
#pragma once
#include <cfenv>

// As a guard around a call: the defaults inside, the caller's mode again behind it.
class DefaultFloats {
  public:
    DefaultFloats() {
        std::fegetenv(&callers_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultFloats() { std::fesetenv(&callers_); }
    DefaultFloats(const DefaultFloats&) = delete;
    DefaultFloats& operator=(const DefaultFloats&) = delete;

  private:
    std::fenv_t callers_;
};
