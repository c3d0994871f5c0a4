// Two texts grow in one batch, each as it would alone: two_sequences MODEL.gguf [TEXT TEXT]
#include <array>
#include <iostream>
#include <string>
#include <vector>

#include <vga/vga.h>

int main(int argc, char** argv) try {
  const vga::Model model = vga::Model::load(argc > 1 ? argv[1] : "stories.gguf");
  const std::array<std::string, 2> prompts = {argc > 2 ? argv[2] : "The fox",
                                              argc > 3 ? argv[3] : "A little girl"};
  vga::Session session(model, {.n_sequences = 2});
  std::array<std::vector<vga::Token>, 2> texts;
  for (uint32_t i = 0; i < 2; ++i) {
    session.prefill(model.tokenizer().encode_prompt(prompts[i]), i);
    texts[i].push_back(session.likeliest(1)[0].token);
  }
  for (int step = 0; step < 50; ++step) {
    std::array<vga::Row, 2> rows;  // one of each sequence
    for (uint32_t i = 0; i < 2; ++i) rows[i] = {texts[i].back(), session.length(i), i, true};
    session.append(rows);
    const auto likeliest = session.likeliest(1);  // (2 rows, 1)
    for (size_t i = 0; i < 2; ++i) texts[i].push_back(likeliest[i].token);
  }
  for (size_t i = 0; i < 2; ++i) {
    vga::StreamDecoder text(model.tokenizer(), true);
    std::cout << prompts[i];
    for (const vga::Token token : texts[i]) std::cout << text.add(token);
    std::cout << text.finish() << "\n\n";
  }
} catch (const vga::Error& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
