// Fiji: open this file in the script editor (File > New > Script...), or copy it into the folder
// scripts/Plugins of Fiji, and run it on the image in front. It calls the command `napari-dip`.
#@ ImagePlus imp
#@ String (label = "Command", value = "napari-dip") command
#@ String (label = "Task", choices = {"denoise", "super-resolve", "blind-deblur"}) task
#@ String (label = "Preset", choices = {"instant", "fast", "balanced", "best"}, value = "balanced") preset
#@output ImagePlus restored
import groovy.json.JsonSlurper
import ij.IJ
import java.nio.file.Files

def folder = Files.createTempDirectory("napari-dip").toFile()
def input = new File(folder, "image.tif"), output = new File(folder, "restored.tif")
def report = new File(folder, "report.json")
IJ.saveAsTiff(imp.duplicate(), input.path)

def call = [command, task, input.path, "-o", output.path, "--preset", preset, "--report", report.path]
def process = new ProcessBuilder(call).redirectErrorStream(true).start()
def last = ""
process.inputStream.eachLine { line ->
    if (line.trim()) { last = line; IJ.showStatus(line); IJ.log(line) }
}
def code = process.waitFor() // 0 done, 2 refused before any work, 1 failed, 130 interrupted
if (code != 0) {
    IJ.error("napari-dip", last) // one sentence what is wrong, one what to do
    return
}
restored = IJ.openImage(output.path)
restored.title = "${imp.shortTitle} (${task})"
restored.calibration = imp.calibration.copy()
if (task == "super-resolve") { // the finer grid's own scale
    restored.calibration.pixelWidth *= imp.width / (double) restored.width
    restored.calibration.pixelHeight *= imp.height / (double) restored.height
}
def verdict = new JsonSlurper().parse(report).verdict
(verdict?.warnings ?: verdict?.sentences ?: []).each { IJ.log(it) }
folder.deleteDir()
