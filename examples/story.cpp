// Continues a text: story MODEL.gguf [TEXT]
#include <iostream>

#include <vga/vga.h>

int main(int argc, char** argv) try {
  const vga::Model model = vga::Model::load(argc > 1 ? argv[1] : "stories.gguf");
  vga::Session session(model);
  vga::Sampler sampler({.temperature = 0.8f, .seed = 1});
  vga::StreamDecoder text(model.tokenizer());

  session.prefill(model.tokenizer().encode_prompt(argc > 2 ? argv[2] : "Once upon a time"));
  for (int i = 0; i < 100; ++i) {
    const vga::Token token = session.sample(sampler);
    std::cout << text.add(token) << std::flush;
    session.append(token);
  }
  std::cout << '\n';
} catch (const vga::Error& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
