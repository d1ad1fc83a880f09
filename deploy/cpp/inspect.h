// What both examples share beside the runtime: images, a number of the metadata, and the loop.
#pragma once

#include <cctype>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
  size_t height = 0, width = 0;
  std::vector<uint8_t> pixels;  // (height, width, 3), RGB
};

// A binary PPM file (P6, 8 bits), as a camera's program or `convert x.png x.ppm` writes it.
inline Image read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  Image image;
  int white = 0;
  file >> kind >> image.width >> image.height >> white;
  file.get();  // the white space before the pixels
  if (!file || kind != "P6" || white != 255)
    throw std::runtime_error(path + " is no PPM image of 8 bits");
  image.pixels.resize(image.height * image.width * 3);
  file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size());
  if (!file) throw std::runtime_error(path + " is cut off");
  return image;
}

// A number at the top of the metadata, a JSON object. Where it is null, so is what it decides.
inline double number_in(const std::string& json, const std::string& name) {
  const std::string key = '"' + name + "\":";
  size_t at = json.find(key);
  if (at == std::string::npos) throw std::runtime_error("the metadata have no " + name);
  at += key.size();
  while (at < json.size() && std::isspace(static_cast<unsigned char>(json[at]))) ++at;
  if (json.compare(at, 4, "null") == 0)
    throw std::runtime_error("the detector has no " + name + ": no images were held out");
  return std::stod(json.substr(at));
}

struct Result {
  float score;
  float highest;  // of the anomaly map
};

// Prints path, score, highest value of the map and verdict of each image. Returns 0, 3 where an
// image is anomalous, 1 where something fails, and 2 for wrong usage.
template <class Detector>
int inspect_images(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: %s DETECTOR IMAGE.ppm...\n", words[0]);
    return 2;
  }
  try {
    Detector detector(words[1]);
    bool any = false;
    for (int i = 2; i < count; ++i) {
      Image image = read_ppm(words[i]);
      const Result result = detector.inspect(image);
      const bool is_anomalous = result.score > detector.threshold();
      any = any || is_anomalous;
      std::printf("%s %.9g %.9g %s\n", words[i], result.score, result.highest,
                  is_anomalous ? "anomalous" : "normal");
    }
    return any ? 3 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
