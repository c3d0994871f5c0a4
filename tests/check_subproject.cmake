# Configures a project that contains this one: cmake -D SOURCE=... -D FOLDER=... -P check_subproject.cmake
# Its release flags say NDEBUG, and our sources are compiled with their asserts nevertheless.

file(REMOVE_RECURSE ${FOLDER})
file(WRITE ${FOLDER}/CMakeLists.txt "
cmake_minimum_required(VERSION 3.25)
project(outer LANGUAGES CXX)
add_subdirectory(${SOURCE} vga)
")
execute_process(
  COMMAND ${CMAKE_COMMAND} -S ${FOLDER} -B ${FOLDER}/build -G Ninja -D CMAKE_BUILD_TYPE=Release
          -D VGA_TOOLS=ON -D CMAKE_EXPORT_COMPILE_COMMANDS=ON
  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)

file(READ ${FOLDER}/build/compile_commands.json commands)
string(JSON n LENGTH ${commands})
if(n LESS 50)
  message(FATAL_ERROR "only ${n} sources are compiled")
endif()
math(EXPR last "${n} - 1")
foreach(i RANGE ${last})
  string(JSON command GET ${commands} ${i} command)
  string(FIND "${command}" " -DNDEBUG" defined REVERSE)
  string(FIND "${command}" " -UNDEBUG" undefined REVERSE)
  if(defined EQUAL -1 OR undefined LESS defined)
    message(FATAL_ERROR "wanted NDEBUG defined by the outer project and undefined by ours: ${command}")
  endif()
endforeach()
file(REMOVE_RECURSE ${FOLDER})
