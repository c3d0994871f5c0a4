# Configures a project that contains this one: cmake -D SOURCE=... -D FOLDER=... -P check_subproject.cmake
# Its release flags say NDEBUG, and our sources are compiled with their asserts nevertheless; what
# it includes of the C library is the C library's.

file(REMOVE_RECURSE ${FOLDER})
file(WRITE ${FOLDER}/CMakeLists.txt "
cmake_minimum_required(VERSION 3.25)
project(outer LANGUAGES CXX)
add_subdirectory(${SOURCE} vga)
add_executable(user user.cpp)
target_link_libraries(user PRIVATE vga::vga)
")
file(WRITE ${FOLDER}/user.cpp "
#include <error.h>
#include <vga/vga.h>
int main() { ::error(0, 0, \"not one of ours\"); }
")
execute_process(
  COMMAND ${CMAKE_COMMAND} -S ${FOLDER} -B ${FOLDER}/build -G Ninja -D CMAKE_BUILD_TYPE=Release
          -D VGA_TOOLS=ON -D VGA_VULKAN=OFF -D CMAKE_EXPORT_COMPILE_COMMANDS=ON
  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)

file(READ ${FOLDER}/build/compile_commands.json commands)
string(JSON n LENGTH ${commands})
if(n LESS 50)
  message(FATAL_ERROR "only ${n} sources are compiled")
endif()
math(EXPR last "${n} - 1")
foreach(i RANGE ${last})
  string(JSON command GET ${commands} ${i} command)
  if(command MATCHES "user.cpp")
    continue()
  endif()
  string(FIND "${command}" " -DNDEBUG" defined REVERSE)
  string(FIND "${command}" " -UNDEBUG" undefined REVERSE)
  if(defined EQUAL -1 OR undefined LESS defined)
    message(FATAL_ERROR "wanted NDEBUG defined by the outer project and undefined by ours: ${command}")
  endif()
endforeach()
execute_process(COMMAND ${CMAKE_COMMAND} --build ${FOLDER}/build --target CMakeFiles/user.dir/user.cpp.o
                OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(REMOVE_RECURSE ${FOLDER})
