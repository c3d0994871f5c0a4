#include "common/reference.h"

#include <map>
#include <sstream>
#include <vector>

#include "vga/error.h"

namespace vga {
namespace {

/// One option as a manual page and a shell want it.
struct Entry {
  std::vector<std::string> names;  // with their dashes, the short ones first
  std::string value;               // "FILE"; empty for a flag
  std::vector<std::string> choices;
  std::string text;
  std::string group;

  bool takes_file() const { return value == "FILE" || value == "FOLDER" || value == "PATH"; }
  bool is_positional() const { return names.empty(); }
};

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, at);) parts.push_back(part);
  return parts;
}

/// CLI11 says "TYPE:{f16,f32}" for a value of type TYPE that is one of these.
Entry entry_of(const CLI::Option& option) {
  Entry entry;
  for (const std::string& name : option.get_snames()) entry.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) entry.names.push_back("--" + name);
  if (option.get_items_expected_max() > 0) {
    const std::string type = option.get_type_name();
    entry.value = type.substr(0, type.find(':'));
    const size_t open = type.find('{');
    const size_t close = type.find('}');
    if (open != std::string::npos && close != std::string::npos) {
      entry.choices = split(type.substr(open + 1, close - open - 1), ',');
    }
  }
  entry.text = option.get_description();
  entry.group = option.get_group();
  return entry;
}

/// All but the hidden ones, which have no group.
std::vector<Entry> entries_of(const CLI::App& app) {
  std::vector<Entry> entries;
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_group().empty()) entries.push_back(entry_of(*option));
  }
  return entries;
}

/// roff takes backslashes and leading dots and quotes for its own; a dash of ours is a minus.
std::string roff(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool begins = i == 0 || text[i - 1] == '\n';
    if (begins && (text[i] == '.' || text[i] == '\'')) out += "\\&";
    if (text[i] == '\\') {
      out += "\\e";
    } else if (text[i] == '-') {
      out += "\\-";
    } else {
      out += text[i];
    }
  }
  return out;
}

/// A word in single quotes of a POSIX shell, which zsh and fish understand, too.
std::string in_quotes(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

std::string bash_completion(const std::vector<Entry>& entries, const std::string& name) {
  const std::string function = "_" + std::string(name).replace(name.find('-'), 1, "_");
  std::string options;
  std::string cases;
  for (const Entry& entry : entries) {
    if (entry.is_positional()) continue;
    for (const std::string& option : entry.names) options += option + " ";
    std::string pattern;
    for (const std::string& option : entry.names) pattern += (pattern.empty() ? "" : "|") + option;
    if (!entry.choices.empty()) {
      cases += "    " + pattern + ") COMPREPLY=($(compgen -W " + in_quotes(joined(entry.choices)) +
               " -- \"$word\")); return ;;\n";
    } else if (entry.takes_file()) {
      cases += "    " + pattern + ") COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n";
    } else if (!entry.value.empty()) {
      cases += "    " + pattern + ") return ;;\n";
    }
  }
  return function +
         "() {\n"
         "  local word=${COMP_WORDS[COMP_CWORD]}\n"
         "  COMPREPLY=()\n"
         "  case ${COMP_WORDS[COMP_CWORD-1]} in\n" +
         cases +
         "  esac\n"
         "  if [[ $word == -* ]]; then\n"
         "    COMPREPLY=($(compgen -W " +
         in_quotes(options) +
         " -- \"$word\"))\n"
         "  else\n"
         "    COMPREPLY=($(compgen -f -- \"$word\"))\n"
         "  fi\n"
         "}\n"
         "complete -o filenames -F " +
         function + " " + name + "\n";
}

/// A description in _arguments: brackets and colons end it.
std::string zsh_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_completion(const std::vector<Entry>& entries, const std::string& name) {
  std::string out = "#compdef " + name + "\n_arguments";
  for (const Entry& entry : entries) {
    std::string value;
    if (!entry.choices.empty()) {
      value = ":" + entry.value + ":(" + joined(entry.choices) + ")";
    } else if (!entry.value.empty()) {
      value = ":" + entry.value + ":" + (entry.takes_file() ? "_files" : "");
    }
    const std::string meaning = "[" + zsh_text(entry.text) + "]" + value;
    for (const std::string& option : entry.names) out += " \\\n  " + in_quotes(option + meaning);
  }
  return out + " \\\n  '*:file:_files'\n";
}

std::string fish_completion(const std::vector<Entry>& entries, const std::string& name) {
  std::string out;
  for (const Entry& entry : entries) {
    if (entry.is_positional()) continue;
    out += "complete -c " + name;
    for (const std::string& option : entry.names) {
      out += option.starts_with("--") ? " -l " + option.substr(2) : " -s " + option.substr(1);
    }
    if (!entry.choices.empty()) {
      out += " -x -a " + in_quotes(joined(entry.choices));
    } else if (entry.takes_file()) {
      out += " -r -F";
    } else if (!entry.value.empty()) {
      out += " -x";
    }
    out += " -d " + in_quotes(entry.text) + "\n";
  }
  return out;
}

}  // namespace

std::string man_page(const CLI::App& app, const std::string& name, const std::string& version) {
  const std::string about = app.get_description();
  const size_t first_end = about.find_first_of(".\n");
  std::ostringstream out;
  out << ".TH " << roff(name) << " 1 \"\" \"vga.cpp " << version << "\" \"User Commands\"\n"
      << ".SH NAME\n"
      << roff(name) << " \\- " << roff(about.substr(0, first_end)) << "\n"
      << ".SH SYNOPSIS\n.B " << roff(name) << "\n[OPTIONS]";
  const std::vector<Entry> entries = entries_of(app);
  for (const Entry& entry : entries) {
    if (entry.is_positional()) out << " " << roff(entry.value);
  }
  // Examples keep their lines.
  out << "\n.SH DESCRIPTION\n.nf\n" << roff(about) << "\n.fi\n";
  std::string group;
  for (const Entry& entry : entries) {
    if (entry.is_positional()) continue;
    if (entry.group != group) out << ".SH " << roff(entry.group) << "\n";
    group = entry.group;
    out << ".TP\n";
    for (size_t i = 0; i < entry.names.size(); ++i) {
      out << (i > 0 ? ", " : "") << "\\fB" << roff(entry.names[i]) << "\\fR";
    }
    if (!entry.value.empty()) out << " \\fI" << roff(entry.value) << "\\fR";
    out << "\n" << roff(entry.text);
    if (!entry.choices.empty()) out << " (" << roff(joined(entry.choices)) << ")";
    out << "\n";
  }
  return out.str();
}

std::string completion(const CLI::App& app, const std::string& name, const std::string& shell) {
  const std::vector<Entry> entries = entries_of(app);
  if (shell == "bash") return bash_completion(entries, name);
  if (shell == "zsh") return zsh_completion(entries, name);
  if (shell == "fish") return fish_completion(entries, name);
  throw Error("--completion", "wanted bash, zsh or fish, found '" + shell + "'");
}

}  // namespace vga
