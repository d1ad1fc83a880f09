// The metrics over numpy arrays. Arrays are taken as they are, C-contiguous and of the right type,
// never converted: fastad/evaluation checks them and converts what has to be.

#include "metrics/bind.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "metrics/curve.h"
#include "metrics/histogram.h"
#include "metrics/region_levels.h"
#include "metrics/region_measures.h"
#include "metrics/regions.h"
#include "metrics/sorted.h"

namespace py = pybind11;

namespace fastad::metrics {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// An array that owns a vector's memory.
template <class T>
py::array_t<T> take(std::vector<T>&& values) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  const py::capsule capsule(owner.get(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  const auto* vector = owner.release();
  return py::array_t<T>(static_cast<py::ssize_t>(vector->size()), vector->data(), capsule);
}

template <class T>
std::vector<Image<T>> images_of(const Array<bool>& masks, const Array<T>& maps) {
  if (masks.ndim() != 3 || maps.ndim() != 3 ||
      !std::equal(masks.shape(), masks.shape() + 3, maps.shape()))
    throw std::invalid_argument("masks and maps must be (N, H, W) and alike");
  const int64_t height = maps.shape(1), width = maps.shape(2);
  std::vector<Image<T>> images;
  for (py::ssize_t i = 0; i < maps.shape(0); ++i)
    images.push_back(
        {masks.data() + i * height * width, maps.data() + i * height * width, height, width});
  return images;
}

template <class T>
py::tuple curve_of_maps(const Array<bool>& masks, const Array<T>& maps, bool normal_images,
                        int threads) {
  const std::vector<Image<T>> images = images_of(masks, maps);
  Curve curve;
  {
    const py::gil_scoped_release release;
    curve = pixel_curve(images, normal_images, threads);
  }
  return py::make_tuple(take(std::move(curve.values)), take(std::move(curve.defects)),
                        take(std::move(curve.overlap)), take(std::move(curve.normal_above)),
                        take(std::move(curve.normal_equal)), curve.normal, curve.regions);
}

void histograms_of_block(const Array<bool>& masks, const Array<float>& maps, Array<int64_t> normal,
                         Array<int64_t> defect, Array<double> overlap) {
  int bits = 0;
  while (bits < 32 && int64_t(1) << bits < normal.size()) ++bits;
  if (normal.size() != int64_t(1) << bits || defect.size() != normal.size() ||
      overlap.size() != normal.size())
    throw std::invalid_argument("the histograms must have 2^bits bins each");
  const std::vector<Image<float>> images = images_of(masks, maps);
  int64_t* const normal_bins = normal.mutable_data();
  int64_t* const defect_bins = defect.mutable_data();
  double* const overlap_bins = overlap.mutable_data();
  const py::gil_scoped_release release;
  for (const Image<float>& image : images)
    add_to_histograms(image, bits, normal_bins, defect_bins, overlap_bins);
}

template <class T>
void sort_array(Array<T> values) {
  T* const data = values.mutable_data();
  const int64_t size = values.size();
  const py::gil_scoped_release release;
  sort_values(data, size);
}

py::tuple folded(const Array<double>& values, const Array<int64_t>& sizes,
                 const Array<int64_t>& counts) {
  if (sizes.size() != values.size() || counts.size() != values.size())
    throw std::invalid_argument("values, sizes and counts must be alike");
  std::vector<DefectRow> rows;
  rows.reserve(values.size());
  for (py::ssize_t i = 0; i < values.size(); ++i)
    rows.push_back({key_of(values.data()[i]), sizes.data()[i], counts.data()[i]});
  std::vector<double> found;
  std::vector<int64_t> of_size, number;
  {
    const py::gil_scoped_release release;
    sort_defects(rows);
    for_each_row(rows, [&](Key<double> key, int64_t size, int64_t count) {
      found.push_back(value_of<double>(key));
      of_size.push_back(size);
      number.push_back(count);
    });
  }
  return py::make_tuple(take(std::move(found)), take(std::move(of_size)), take(std::move(number)));
}

template <class T>
void count_array(const Array<double>& among, const Array<T>& values, Array<int64_t> slots) {
  if (slots.size() != 2 * among.size() + 1)
    throw std::invalid_argument("slots must be two for each value among, and one");
  int64_t* const counts = slots.mutable_data();
  const double* const places = among.data();
  const T* const data = values.data();
  const int64_t count = among.size(), size = values.size();
  const py::gil_scoped_release release;
  count_sorted(places, count, data, size, counts);
}

// Labels (H, W): the number of each pixel's region, from 1.
void write_labels(const Regions& regions, int64_t width, int32_t* labels, int64_t pixels) {
  std::fill(labels, labels + pixels, 0);
  for (const Run& run : regions.runs)
    std::fill(labels + run.row * width + run.begin, labels + run.row * width + run.end,
              static_cast<int32_t>(run.region + 1));
}

py::tuple label_regions(const Array<bool>& mask) {
  if (mask.ndim() != 2) throw std::invalid_argument("mask must be (H, W)");
  const int64_t width = mask.shape(1);
  py::array_t<int32_t> labels({mask.shape(0), mask.shape(1)});
  int32_t* const out = labels.mutable_data();
  const bool* const in = mask.data();
  int64_t count = 0;
  {
    const py::gil_scoped_release release;
    const Regions regions = find_regions(in, mask.shape(0), width);
    count = static_cast<int64_t>(regions.sizes.size());
    write_labels(regions, width, out, mask.size());
  }
  return py::make_tuple(labels, count);
}

template <class T>
py::tuple regions_of_map(const Array<bool>& mask, const Array<T>& map, double across, double down) {
  if (mask.ndim() != 2 || map.ndim() != 2 ||
      !std::equal(mask.shape(), mask.shape() + 2, map.shape()))
    throw std::invalid_argument("mask and map must be (H, W) and alike");
  const int64_t height = mask.shape(0), width = mask.shape(1);
  py::array_t<int32_t> labels({height, width});
  int32_t* const out = labels.mutable_data();
  const bool* const marked = mask.data();
  const T* const values = map.data();
  std::vector<RegionMeasure> found;
  {
    const py::gil_scoped_release release;
    const Regions regions = find_regions(marked, height, width);
    write_labels(regions, width, out, mask.size());
    found = measure_regions(regions, values, width, across, down);
  }
  py::list rows;
  for (const RegionMeasure& of : found) {
    const auto pixels = static_cast<double>(of.pixels);
    py::list corners;
    for (const Point& corner : of.box.corners) corners.append(py::make_tuple(corner.x, corner.y));
    rows.append(py::make_tuple(
        of.pixels, py::make_tuple(of.top, of.left, of.bottom, of.right), of.peak, of.sum / pixels,
        py::make_tuple(of.columns / pixels, of.rows / pixels), py::tuple(corners), of.box.length,
        of.box.width, py::make_tuple(of.box.along.x, of.box.along.y)));
  }
  return py::make_tuple(labels, rows);
}

py::array_t<float> levels_of_maps(const Array<float>& maps, const Array<int64_t>& areas) {
  if (maps.ndim() != 3 || areas.ndim() != 1)
    throw std::invalid_argument("maps must be (N, H, W) and areas (L,)");
  const int64_t height = maps.shape(1), width = maps.shape(2), count = areas.size();
  const int64_t* const wanted = areas.data();
  if (!std::is_sorted(wanted, wanted + count) ||
      (count > 0 && (wanted[0] < 1 || wanted[count - 1] > height * width)))
    throw std::invalid_argument("areas must ascend from 1 pixel at least to all pixels at most");
  py::array_t<float> levels({maps.shape(0), areas.size()});
  float* const out = levels.mutable_data();
  const float* const in = maps.data();
  const int64_t images = maps.shape(0);
  const py::gil_scoped_release release;
  for (int64_t i = 0; i < images; ++i)
    region_levels(in + i * height * width, height, width, wanted, count, out + i * count);
  return levels;
}

}  // namespace

void bind(py::module_& m) {
  m.def("label_regions", &label_regions, py::arg("mask").noconvert(),
        "Mask (H, W) -> its 8-connected regions (H, W) int32, numbered from 1, and their number.");
  m.def(
      "measure_regions", &regions_of_map<float>, py::arg("mask").noconvert(),
      py::arg("map").noconvert(), py::arg("across"), py::arg("down"),
      "Mask (H, W), map (H, W) -> labels as of label_regions, and of each region: pixels, (top,\n"
      "left, bottom, right), peak, mean, mean (x, y) of its pixels, and of the smallest box the\n"
      "corners, length, width and direction of the long side. `across` and `down` scale the box.");
  m.def("measure_regions", &regions_of_map<double>, py::arg("mask").noconvert(),
        py::arg("map").noconvert(), py::arg("across"), py::arg("down"));
  m.def("region_levels", &levels_of_maps, py::arg("maps").noconvert(), py::arg("areas").noconvert(),
        "Maps (N, H, W) float32, areas (L,) int64 in pixels, ascending -> (N, L) float32: the\n"
        "highest value at or above which a map has an 8-connected region of at least this area.");
  m.def("pixel_curve", &curve_of_maps<float>, py::arg("masks").noconvert(),
        py::arg("maps").noconvert(), py::arg("normal_images"), py::arg("threads"),
        "Masks and maps (N, H, W) -> values, defects, overlap, normal_above,\n"
        "normal_equal, normal, regions: one row a distinct value of the defect pixels, the\n"
        "highest first. With normal_images, only images without a defect have normal pixels.");
  m.def("pixel_curve", &curve_of_maps<double>, py::arg("masks").noconvert(),
        py::arg("maps").noconvert(), py::arg("normal_images"), py::arg("threads"));
  m.def("sort_values", &sort_array<float>, py::arg("values").noconvert(),
        "Sorts finite values in place; -0 becomes 0.");
  m.def("sort_values", &sort_array<double>, py::arg("values").noconvert());
  m.def("fold_defects", &folded, py::arg("values").noconvert(), py::arg("sizes").noconvert(),
        py::arg("counts").noconvert(),
        "Defect pixels (N,): values, sizes of their regions and how many there are -> the same,\n"
        "one row a value and size, ascending by both.");
  m.def("count_sorted", &count_array<float>, py::arg("among").noconvert(),
        py::arg("values").noconvert(), py::arg("slots").noconvert(),
        "Adds ascending values to slots (2 K + 1,) of ascending distinct ones, among (K,): slot\n"
        "2 i counts those below among[i], slot 2 i + 1 those equal to it.");
  m.def("count_sorted", &count_array<double>, py::arg("among").noconvert(),
        py::arg("values").noconvert(), py::arg("slots").noconvert());
  m.def("add_to_histograms", &histograms_of_block, py::arg("masks").noconvert(),
        py::arg("maps").noconvert(), py::arg("normal").noconvert(), py::arg("defect").noconvert(),
        py::arg("overlap").noconvert(),
        "Adds the pixels of masks and maps (N, H, W), finite, to histograms of 2^bits bins.");
}

}  // namespace fastad::metrics
